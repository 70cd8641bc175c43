"""The addresses of OpenDataDSL process execution."""

import re
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from typing import Any
from uuid import UUID

from flask import Response, jsonify, request
from marshmallow import Schema
from sqlalchemy.orm import Session

from api.contracts.opendatadsl import aggregation, mapping, requests, responses
from api.contracts.opendatadsl.errors import render
from api.contracts.opendatadsl.query_json import names_in
from api.toolkit.auth import Accepts
from api.toolkit.context import caller, services, settings, tenant, transaction
from api.toolkit.surface import Contract, LenientBlueprint, is_below, needs_scope
from orchestrator import runs
from orchestrator.access import tenants
from orchestrator.errors import Invalid, Mistake, NotFound
from orchestrator.models import Role
from orchestrator.search import queries

# The tenant's setting for the words of a status that older clients do not know.
DETAILED = "opendatadsl.detailed_status"
TOTAL = "x-total-count"
_ROOTS = ("/api/process-exec", "/api/process")
_LONGEST_DELAY = 10 * 365 * 86_400_000  # milliseconds
_LONGEST_REASON = 4000  # characters
_BEGAN = datetime.now(UTC)
_SLASHES = re.compile("//+")
_OLD = re.compile(r"/service(?=/process(?:-exec)?(?:/|$))")

blueprint = LenientBlueprint(
    "opendatadsl", __name__, description="Process executions and processes"
)


def owns(path: str) -> bool:
    """Whether it answers at this path."""
    return is_below(path, *_ROOTS)


def rewrite(path: str) -> str:
    """The path as it is called now, without a slash too many."""
    path = _OLD.sub("/api", path, count=1) if _OLD.match(path) else path
    return _SLASHES.sub("/", path).rstrip("/") if owns(path) else path


def check() -> None:
    """Raises Forbidden when the key's scopes leave out what is asked for."""
    of_runs = request.path.startswith(_ROOTS[0])
    needs_scope("runs" if of_runs else "workflows")()


def documented(schema: type[Schema]) -> Callable[[Any], Any]:
    """Put the parameters of a query into the document; the view reads them itself."""
    parameters = [
        {
            "in": "query",
            "name": name,
            "description": field.metadata.get("description", ""),
            "schema": {"type": "integer" if name in ("_limit", "_skip") else "string"},
        }
        for name, field in schema._declared_fields.items()
    ]
    return blueprint.doc(parameters=parameters)  # type: ignore[no-any-return]


def build(service: str) -> Response:
    """What answers for a service."""
    told = {"service": service, "version": "1.0.0", "build": version("orchestrator")}
    return jsonify({**told, "timestamp": mapping.instant(_BEGAN)})


@blueprint.route("/api/process-exec")
@blueprint.response(200, responses.Build)
def build_of_executions() -> Response:
    """Get the build information of the service"""
    return build("process-exec")


@blueprint.route("/api/process-exec/v1")
@blueprint.route("/api/process-exec/v1/private", endpoint="private_page")
@documented(responses.Query)
@blueprint.response(200, responses.Execution(many=True))
def page() -> Response:
    """List executions, latest start first

    The header `x-total-count` has how many there are on all pages. Any name that does not begin
    with `_` is a field of the execution, dotted for its parts, and its value what it must be.
    """
    with _snapshot() as session, queries.with_time_limit(session):
        detailed = _is_detailed(session)
        asked = requests.read(requests.pairs(), detailed=detailed)
        for wanted, answer in (
            (asked.pipeline, aggregation.aggregate),
            (asked.distinct, aggregation.distinct),
            (asked.fieldinfo, aggregation.fieldinfo),
        ):
            if wanted is not None:
                return jsonify(answer(session, tenant(), asked, detailed=detailed))
        total = queries.count_runs(session, tenant(), asked.condition)
        found = mapping.logs(
            session, tenant(), asked.condition, asked.order,
            limit=asked.limit, offset=asked.skip, detailed=detailed, fields=asked.project,
        ) if asked.skip < total else []  # fmt: skip
    reply = jsonify(found)
    reply.headers[TOTAL] = str(total)
    return reply


@blueprint.route("/api/process-exec/v1/public")
@blueprint.response(200, responses.Execution(many=True))
def public_page() -> Response:
    """List the public executions, of which there are none"""
    reply = jsonify([])
    reply.headers[TOTAL] = "0"
    return reply


@blueprint.route("/api/process-exec/v1/<path:key>")
@blueprint.route("/api/process-exec/v1/private/<path:key>", endpoint="private_show")
@documented(responses.Shown)
@blueprint.response(200, responses.Execution)
def show(key: str) -> Response:
    """Get an execution with its phases and what they said"""
    fields = names_in(dict(requests.pairs()).get("_project", ""))
    with _snapshot() as session:
        return jsonify(_log(session, key, fields))


@blueprint.route("/api/process-exec", methods=["POST"], endpoint="trigger_at_root")
@blueprint.route("/api/process-exec/v1", methods=["POST"])
@blueprint.route("/api/process-exec/v1/private", methods=["POST"], endpoint="private_trigger")
@documented(responses.How)
@blueprint.arguments(responses.Trigger)
@blueprint.response(200, responses.Execution)
def trigger(body: dict[str, Any]) -> Response:
    """Trigger a process

    The parameters are those of `input` and, over them, those of `body`.
    """
    caller().must_be(Role.OPERATOR)
    who = caller()
    new = runs.NewRun(
        workflow=body["name"],
        params={**(body.get("input") or {}), **(body.get("body") or {})},
        run_at=_run_at(request.args.get("_delay")),
        reason=_reason(request.args.get("_reason")),
        environment=requests.environment(),
        source_type="key",
        source_id=str(who.key_id),
        submitted_by=who.submitter,
        run_as=who.submitter,
    )
    with transaction() as session:
        return jsonify(_log(session, str(_submitted(session, new))))


def _snapshot() -> AbstractContextManager[Session]:
    """A transaction whose statements all see the same moment."""
    return services().database.transaction(tenant(), snapshot=True)


def _submitted(session: Session, new: runs.NewRun) -> UUID:
    try:
        return runs.submit(session, tenant(), new, window=settings().window)[0].id
    except NotFound:
        raise NotFound(f"No process with name {new.workflow}") from None


def _log(session: Session, key: str, fields: Sequence[str] = ()) -> dict[str, Any]:
    """An execution log by its key. Raises NotFound."""
    run_id, detailed = _id_in(key), _is_detailed(session)
    found = None
    if run_id is not None:
        found = mapping.log(session, tenant(), run_id, detailed=detailed, fields=fields)
    if found is None:
        raise NotFound(f"No process execution with id {key}")
    return found


def _id_in(key: str) -> UUID | None:
    try:
        return UUID(key)
    except ValueError:
        return None


def _is_detailed(session: Session) -> bool:
    return tenants.get_tenant(session, tenant(), tenant()).settings.get(DETAILED) is True


def _run_at(delay: str | None) -> datetime | None:
    if delay is None:
        return None
    waits = requests.number(delay, "/query/_delay", least=0, most=_LONGEST_DELAY)
    return datetime.now(UTC) + timedelta(milliseconds=waits) if waits else None


def _reason(given: str | None) -> str | None:
    if given and (len(given) > _LONGEST_REASON or "\x00" in given):
        mistake = Mistake("/query/_reason", f"at most {_LONGEST_REASON:,} characters are taken")
        raise Invalid("the reason cannot be kept", mistake)
    return given or None


CONTRACT = Contract(
    name="opendatadsl",
    title="OpenDataDSL process execution",
    version="v1",
    owns=owns,
    accepts=Accepts(basic=True, headers=("x-odsl-key",), user_header="x-odsl-email"),
    render=render,
    problem=responses.Refusal,
    blueprint=blueprint,
    check=check,
    rewrite=rewrite,
)
