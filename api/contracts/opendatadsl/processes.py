"""The addresses of processes: a process is a workflow that can be executed."""

import re
from typing import Any, NamedTuple

from sqlalchemy.orm import Session

from api.contracts.opendatadsl import requests, responses
from api.contracts.opendatadsl.surface import PROCESSES, TOTAL, blueprint, documented
from api.toolkit.context import tenant, transaction
from api.toolkit.wire import reworded
from orchestrator import workflows
from orchestrator.errors import NotFound
from orchestrator.models import Version, Workflow

_NUMBER = re.compile(r"[0-9]{1,9}")


class ProcessView(NamedTuple):
    """What a process is read from."""

    workflow: Workflow
    version: Version


@blueprint.route(PROCESSES, resources="workflows")
@blueprint.response(200, responses.Build)
def build_of_processes() -> dict[str, str]:
    """Get the build information of the service of processes"""
    return {"service": "process"}


@blueprint.route(f"{PROCESSES}/v1", resources="workflows")
@blueprint.route(f"{PROCESSES}/v1/private", endpoint="private_processes", resources="workflows")
@documented(responses.PAGE)
@blueprint.response(200, responses.Process(many=True))
def processes() -> tuple[list[ProcessView], dict[str, str]]:
    """List processes by name

    The header `x-total-count` has how many there are on all pages.
    """
    query = requests.read_page()
    with transaction() as session:
        rows = workflows.page(session, tenant(), limit=query.skip + query.limit)[query.skip :]
        latest = workflows.latest_versions(session, rows)
        total = workflows.count(session, tenant())
        return [ProcessView(row, latest[row.id]) for row in rows], {TOTAL: str(total)}


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
        return ProcessView(workflow, workflows.get_version(session, workflow))


@blueprint.route(f"{PROCESSES}/v1/<key>/<number>", resources="workflows")
@blueprint.route(
    f"{PROCESSES}/v1/private/<key>/<number>", endpoint="private_version", resources="workflows"
)
@blueprint.response(200, responses.Process)
def version(key: str, number: str) -> ProcessView:
    """Get one version of a process"""
    with transaction() as session:
        workflow = _get(session, key)
        if not _NUMBER.fullmatch(number) or int(number) > workflow.version:
            raise NotFound(f"No version {number} of process {key}")
        return ProcessView(workflow, workflows.get_version(session, workflow, int(number)))


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


def _get(session: Session, key: str) -> Workflow:
    with reworded(f"No process with name {key}", NotFound):
        return workflows.get(session, tenant(), key)
