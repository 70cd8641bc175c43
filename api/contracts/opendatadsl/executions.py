"""The addresses of executions: search, get, trigger."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from flask import Response, jsonify, request
from sqlalchemy.orm import Session

from api.contracts.opendatadsl import aggregation, csv_text, mapping, requests, responses
from api.contracts.opendatadsl.query_json import split_names
from api.contracts.opendatadsl.surface import EXECUTIONS, TOTAL, blueprint, documented
from api.contracts.opendatadsl.vocabulary import fields_of
from api.toolkit import paging
from api.toolkit.context import caller, services, settings, tenant, transaction
from api.toolkit.wire import reworded
from orchestrator import runs, workflows
from orchestrator.access import tenants
from orchestrator.errors import Invalid, Mistake, NotFound
from orchestrator.search import queries
from orchestrator.search.compiler import FieldSelection
from orchestrator.search.conditions import Field, one_of

# Setting of a tenant: the longer list of statuses, which older clients do not know.
DETAILED = "opendatadsl.detailed_status"
_MAX_DELAY = 10 * 365 * 86_400_000  # milliseconds
_MAX_REASON = 4000  # characters


@blueprint.route(EXECUTIONS)
@blueprint.response(200, responses.Build)
def build_of_executions() -> dict[str, str]:
    """Get the build information of the service"""
    return {"service": "process-exec"}


@blueprint.route(f"{EXECUTIONS}/v1")
@blueprint.route(f"{EXECUTIONS}/v1/private", endpoint="private_page")
@documented(responses.SEARCH)
@blueprint.response(200, responses.ROWS)
@blueprint.alt_response(200, schema={"type": "string"}, content_type="text/csv", success=True)
def page() -> tuple[Response, dict[str, str]]:
    """List executions, latest start first

    The header `x-total-count` has how many there are on all pages. Any name that does not begin
    with `_` is a field of the execution, dotted for its parts, and its value what it must be.
    With `Accept: text/csv` the list is one of lines.
    """
    with _snapshot() as session, queries.with_time_limit(session):
        titles = workflows.titles(session, tenant())
        names = {title: name for name, title in titles.items()}
        query = requests.read(_fields(session, titled=bool(titles)), names)
        for parameter, compute in (
            (query.pipeline, aggregation.aggregate),
            (query.distinct, aggregation.distinct),
            (query.fieldinfo, aggregation.fieldinfo),
        ):
            if parameter is not None:
                items = compute(session, tenant(), query)
                return _list(items, _names(items)), {}
        part = paging.OffsetPage(query.skip, query.limit, query.condition, query.sort)
        total = part.total
        if total is None:
            total = queries.count_runs(session, tenant(), query.condition)
        query.skip, query.after = part.skip, part.after
        logs = mapping.logs(session, tenant(), query) if query.skip < total else []
        part.end(query.positions, total)
    return _list(logs, mapping.columns(query.project)), {TOTAL: str(total)}


@blueprint.route(f"{EXECUTIONS}/v1/public")
@blueprint.response(200, responses.Execution(many=True))
def public_page() -> tuple[list[Any], dict[str, str]]:
    """List the public executions, of which there are none"""
    return [], {TOTAL: "0"}


@blueprint.route(f"{EXECUTIONS}/v1/<path:key>")
@blueprint.route(f"{EXECUTIONS}/v1/private/<path:key>", endpoint="private_show")
@documented(responses.PROJECTION)
@blueprint.response(200, responses.ONE)
def show(key: str) -> Response:
    """Get an execution with its phases and what they said"""
    fields = split_names(dict(requests.pairs()).get("_project", ""))
    with _snapshot() as session:
        return jsonify(_log(session, key, fields))


@blueprint.route(EXECUTIONS, methods=["POST"], endpoint="trigger_at_root")
@blueprint.route(f"{EXECUTIONS}/v1", methods=["POST"])
@blueprint.route(f"{EXECUTIONS}/v1/private", methods=["POST"], endpoint="private_trigger")
@documented(responses.TRIGGER_QUERY)
@blueprint.arguments(responses.Trigger)
@blueprint.response(200, responses.Execution)
def trigger(body: dict[str, Any]) -> Response:
    """Trigger a process

    The parameters are those of `input` and, over them, those of `body`.
    """
    who = caller()
    with transaction() as session:
        with reworded(f"No process with name {body['name']}", NotFound):
            workflow = workflows.by_title(session, tenant(), body["name"]).name
        new = runs.NewRun(
            workflow=workflow,
            params={**(body.get("input") or {}), **(body.get("body") or {})},
            run_at=_run_at(request.args.get("_delay")),
            reason=_reason(request.args.get("_reason")),
            environment=requests.environment(),
            source_type="key",
            source_id=str(who.key_id),
            submitted_by=who.submitter,
            run_as=who.submitter,
        )
        run, _ = runs.submit(session, tenant(), new, window=settings().window)
        return jsonify(_log(session, str(run.id)))


def _list(items: Sequence[Any], names: Sequence[str]) -> Response:
    return csv_text.as_csv(items, names) if csv_text.is_wanted() else jsonify(items)


def _names(items: Sequence[Any]) -> Sequence[str]:
    """The members of objects, each once; that of values is `_id`."""
    members = (name for each in items if isinstance(each, dict) for name in each)
    return list(dict.fromkeys(members)) or ["_id"]


def _snapshot() -> AbstractContextManager[Session]:
    """A transaction whose statements all read the same snapshot."""
    return services().database.transaction(tenant(), snapshot=True)


def _log(session: Session, key: str, fields: Sequence[str] = ()) -> dict[str, Any]:
    """An execution log by its key. Raises NotFound."""
    not_found = NotFound(f"No process execution with id {key}")
    try:
        run_id = UUID(key)
    except ValueError:
        raise not_found from None
    which, selection = one_of(Field("id"), [run_id]), _fields(session, titled=True)
    query = requests.Search(which, limit=1, project=fields, fields=selection)
    if logs := mapping.logs(session, tenant(), query, whole=True):
        return logs[0]
    raise not_found


def _fields(session: Session, *, titled: bool) -> FieldSelection:
    settings = tenants.get_tenant(session, tenant(), tenant()).settings
    return fields_of(detailed=settings.get(DETAILED) is True, titled=titled)


def _run_at(delay: str | None) -> datetime | None:
    if delay is None:
        return None
    milliseconds = requests.number(delay, "/query/_delay", least=0, most=_MAX_DELAY)
    return datetime.now(UTC) + timedelta(milliseconds=milliseconds) if milliseconds else None


def _reason(text: str | None) -> str | None:
    if text and (len(text) > _MAX_REASON or "\x00" in text):
        mistake = Mistake("/query/_reason", f"at most {_MAX_REASON:,} characters are taken")
        raise Invalid("the reason cannot be kept", mistake)
    return text or None
