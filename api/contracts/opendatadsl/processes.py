"""The addresses of processes: the workflows that can be executed, to look at."""

import re
from collections.abc import Sequence
from typing import Any

from flask import Response, jsonify
from sqlalchemy.orm import Session

from api.contracts.opendatadsl import requests, responses
from api.contracts.opendatadsl.executions import TOTAL, blueprint, build, documented
from api.contracts.opendatadsl.vocabulary import SERVICE
from api.toolkit.context import tenant, transaction
from orchestrator import workflows
from orchestrator.errors import NotFound
from orchestrator.models import Version, Workflow

_ROOT = "/api/process"
_NUMBER = re.compile(r"[0-9]{1,9}")


@blueprint.route(_ROOT)
@blueprint.response(200, responses.Build)
def build_of_processes() -> Response:
    """Get the build information of the service of processes"""
    return build("process")


@blueprint.route(f"{_ROOT}/v1")
@blueprint.route(f"{_ROOT}/v1/private", endpoint="private_processes")
@documented(responses.Page)
@blueprint.response(200, responses.Process(many=True))
def processes() -> Response:
    """List processes by name

    The header `x-total-count` has how many there are on all pages.
    """
    asked = requests.read_page(requests.pairs())
    with transaction() as session:
        found = workflows.page(session, tenant(), limit=asked.skip + asked.limit)[asked.skip :]
        latest = workflows.latest_versions(session, found)
        total = workflows.count(session, tenant())
    reply = jsonify([_process(workflow, latest[workflow.id]) for workflow in found])
    reply.headers[TOTAL] = str(total)
    return reply


@blueprint.route(f"{_ROOT}/v1/public")
@blueprint.response(200, responses.Process(many=True))
def public_processes() -> Response:
    """List the public processes, of which there are none"""
    reply = jsonify([])
    reply.headers[TOTAL] = "0"
    return reply


@blueprint.route(f"{_ROOT}/v1/<key>")
@blueprint.route(f"{_ROOT}/v1/private/<key>", endpoint="private_process")
@blueprint.response(200, responses.Process)
def process(key: str) -> Response:
    """Get a process in its latest version"""
    with transaction() as session:
        workflow = _named(session, key)
        found = workflows.get_version(session, workflow)
    return jsonify(_process(workflow, found))


@blueprint.route(f"{_ROOT}/v1/<key>/<number>")
@blueprint.route(f"{_ROOT}/v1/private/<key>/<number>", endpoint="private_version")
@blueprint.response(200, responses.Process)
def version(key: str, number: str) -> Response:
    """Get one version of a process"""
    with transaction() as session:
        workflow = _named(session, key)
        if not _NUMBER.fullmatch(number) or int(number) > workflow.version:
            raise NotFound(f"No version {number} of process {key}")
        found = workflows.get_version(session, workflow, int(number))
    return jsonify(_process(workflow, found))


@blueprint.route(f"{_ROOT}/v1/<key>/*")
@blueprint.route(f"{_ROOT}/v1/private/<key>/*", endpoint="private_versions")
@blueprint.response(200, responses.Process(many=True))
def versions(key: str) -> Response:
    """List the versions of a process, the latest first"""
    with transaction() as session:
        workflow = _named(session, key)
        found = workflows.versions(session, workflow, limit=requests.MOST)
    return jsonify([_process(workflow, each) for each in found])


def _named(session: Session, key: str) -> Workflow:
    try:
        return workflows.get(session, tenant(), key)
    except NotFound:
        raise NotFound(f"No process with name {key}") from None


def _process(workflow: Workflow, version: Version) -> dict[str, Any]:
    """The configuration as this API shows it; a workflow is a process that runs itself."""
    spec = version.spec
    tags: Sequence[str] = spec.get("tags", [])
    return {
        "_id": workflow.name,
        "_type": "VarProcess",
        "_version": version.number,
        "service": spec.get("service") or SERVICE,
        "name": workflow.name,
        "description": spec.get("description", ""),
        "enabled": True,
        "workflow": workflow.name,
        "tags": list(tags),
    }
