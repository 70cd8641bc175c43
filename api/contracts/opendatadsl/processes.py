"""The addresses of processes: a process is a workflow that can be executed."""

import re
from typing import Any, NamedTuple

from flask import Response, jsonify
from sqlalchemy.orm import Session

from api.contracts.opendatadsl import process_specs, requests, responses
from api.contracts.opendatadsl.errors import invalid
from api.contracts.opendatadsl.surface import PROCESSES, TOTAL, blueprint, documented
from api.contracts.opendatadsl.vocabulary import DEFAULT_SERVICE
from api.toolkit import paging
from api.toolkit.context import caller, tenant, transaction
from api.toolkit.wire import reworded
from orchestrator import workflows
from orchestrator.access.permissions import Verb
from orchestrator.errors import Conflict, NotFound
from orchestrator.models import Schedule, Version, Workflow

_NUMBER = re.compile(r"[0-9]{1,9}")
_MAX_TAG = 100  # characters


class ProcessView(NamedTuple):
    """What a process is read from."""

    workflow: Workflow
    version: Version
    schedule: Schedule | None = None  # that `cron` made


@blueprint.route(PROCESSES, resources="workflows")
@blueprint.response(200, responses.Build)
def build_of_processes() -> dict[str, str]:
    """Get the build information of the service of processes"""
    return {"service": "process"}


@blueprint.route(f"{PROCESSES}/v1", resources="workflows")
@blueprint.route(f"{PROCESSES}/v1/private", endpoint="private_processes", resources="workflows")
@documented(responses.PAGE)
@blueprint.response(200, responses.PROCESSES)
def processes() -> tuple[Response, dict[str, str]]:
    """List processes by name

    With `_distinct=_id` only their names. The header `x-total-count` has how many there are on all
    pages.
    """
    query = requests.read_page()
    with transaction() as session:
        if query.distinct is not None:
            return jsonify(_values(session, query.distinct)), {}
        part = paging.OffsetPage(query.skip, query.limit)
        after = part.after[0] if part.after else ""
        rows = workflows.search(session, tenant(), limit=query.limit, offset=part.skip, after=after)
        latest = workflows.latest_versions(session, rows)
        total = workflows.count(session, tenant()) if part.total is None else part.total
        part.end([(row.name,) for row in rows], total)
        timed = process_specs.schedules_of(session, tenant(), rows) if _may_see() else {}
        views = [ProcessView(row, latest[row.id], timed.get(row.name)) for row in rows]
        return jsonify(responses.Process(many=True).dump(views)), {TOTAL: str(total)}


@blueprint.route(f"{PROCESSES}/v1/public", resources="workflows")
@blueprint.response(200, responses.Process(many=True))
def public_processes() -> tuple[list[Any], dict[str, str]]:
    """List the public processes, of which there are none"""
    return [], {TOTAL: "0"}


@blueprint.route(f"{PROCESSES}/v1/<key>", resources="workflows")
@blueprint.route(f"{PROCESSES}/v1/private/<key>", endpoint="private_process", resources="workflows")
@blueprint.response(200, responses.Process)
def process(key: str) -> ProcessView:
    """Get a process in its latest version"""
    with transaction() as session:
        workflow = _get(session, key)
        return _view(session, workflow, workflows.get_version(session, workflow))


@blueprint.route(f"{PROCESSES}/v1/<key>/<number>", resources="workflows")
@blueprint.route(
    f"{PROCESSES}/v1/private/<key>/<number>", endpoint="private_version", resources="workflows"
)
@blueprint.response(200, responses.Process)
def version(key: str, number: str) -> ProcessView:
    """Get one version of a process, by its number or its tag"""
    with transaction() as session:
        workflow = _get(session, key)
        version = workflows.tagged_version(session, workflow, number)
        if version is None:
            version = workflows.get_version(session, workflow, _number(workflow, key, number))
        return ProcessView(workflow, version)


@blueprint.route(f"{PROCESSES}/v1/<key>/*", resources="workflows")
@blueprint.route(
    f"{PROCESSES}/v1/private/<key>/*", endpoint="private_versions", resources="workflows"
)
@blueprint.response(200, responses.Process(many=True))
def versions(key: str) -> list[ProcessView]:
    """List the versions of a process, the latest first"""
    with transaction() as session:
        workflow = _get(session, key)
        rows = workflows.versions(session, workflow, limit=requests.MAX_LIMIT)
        return [ProcessView(workflow, row) for row in rows]


@blueprint.route(PROCESSES, methods=["POST"], endpoint="write_at_root", resources="workflows")
@blueprint.route(f"{PROCESSES}/v1", methods=["POST"], resources="workflows")
@blueprint.route(
    f"{PROCESSES}/v1/private", methods=["POST"], endpoint="private_write", resources="workflows"
)
@blueprint.arguments(responses.ProcessBody)
@blueprint.response(200, responses.Process)
def write(body: dict[str, Any]) -> ProcessView:
    """Create a process, or its next version

    It runs a copy of the workflow that it names, or else its own, with `input` as the defaults of
    the parameters. `cron` is its schedule, which `enabled` turns on and off.
    """
    with transaction() as session:
        spec = process_specs.spec_of(session, tenant(), body)
        workflow, version, _ = workflows.register(session, tenant(), spec)
        if body.get("cron") or "enabled" in body:
            caller().must("schedules", Verb.CHANGE)
            process_specs.schedule(session, tenant(), workflow, body, caller().submitter)
        return _view(session, workflow, version)


@blueprint.route(f"{PROCESSES}/v1/<key>", methods=["PUT"], resources="workflows")
@blueprint.route(
    f"{PROCESSES}/v1/private/<key>", methods=["PUT"], endpoint="private_rename",
    resources="workflows",
)  # fmt: skip
@blueprint.arguments(responses.Rename)
@blueprint.response(200, responses.Process)
def rename(body: dict[str, Any], key: str) -> ProcessView:
    """Rename a process: the new name is its display name, in its next version"""
    with transaction() as session:
        workflow = _get(session, key)
        spec = {**workflows.get_version(session, workflow).spec, "title": body["_id"]}
        workflow, version, _ = workflows.register(session, tenant(), spec)
        return ProcessView(workflow, version)


@blueprint.route(f"{PROCESSES}/v1/<key>/<number>/<tag>", methods=["PUT"], resources="workflows")
@blueprint.route(
    f"{PROCESSES}/v1/private/<key>/<number>/<tag>", methods=["PUT"], endpoint="private_tag",
    resources="workflows",
)  # fmt: skip
@blueprint.response(200, responses.Process)
def tag(key: str, number: str, tag: str) -> ProcessView:
    """Tag a version of a process, which is then found by its tag, too"""
    is_word = tag.isprintable() and tag == tag.strip() and 0 < len(tag) <= _MAX_TAG
    if not is_word or tag == "*" or _NUMBER.fullmatch(tag):
        detail = f"a tag is a word of at most {_MAX_TAG} characters that is no number"
        raise invalid("/tag", detail, "tag")
    with transaction() as session:
        workflow = _get(session, key)
        number_of = _number(workflow, key, number)
        return ProcessView(workflow, workflows.tag_version(session, workflow, number_of, tag))


@blueprint.route(f"{PROCESSES}/v1/<path:key>", methods=["DELETE"], resources="workflows")
@blueprint.response(200, responses.Process)
def delete(key: str) -> None:
    """Refuse to delete a version or a process

    Runs refer to the version that they were made of. To go back to an earlier version, write its
    definition again.
    """
    raise Conflict(f"{key} is not deleted: executions keep the version that they ran")


def _view(session: Session, workflow: Workflow, version: Version) -> ProcessView:
    timed = process_specs.schedules_of(session, tenant(), [workflow]) if _may_see() else {}
    return ProcessView(workflow, version, timed.get(workflow.name))


def _may_see() -> bool:
    return caller().may("schedules", Verb.READ)


def _values(session: Session, field: str) -> list[str]:
    """The different values of a field of all processes."""
    rows = workflows.page(session, tenant(), limit=requests.MAX_LIMIT)
    if field in ("_id", "name"):
        return sorted(row.title or row.name for row in rows)
    if field == "service":
        return sorted({row.service or DEFAULT_SERVICE for row in rows})
    raise invalid("/query/_distinct", "not a field of this kind; there are _id, name, service")


def _number(workflow: Workflow, key: str, text: str) -> int:
    """The number of a version. Raises NotFound."""
    if not _NUMBER.fullmatch(text) or not 0 < int(text) <= workflow.version:
        raise NotFound(f"No version {text} of process {key}")
    return int(text)


def _get(session: Session, key: str) -> Workflow:
    with reworded(f"No process with name {key}", NotFound):
        return workflows.by_title(session, tenant(), key)
