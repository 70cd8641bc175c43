"""`/api/v1/workflows`: register workflows and look them up."""

from typing import Any

from flask import url_for
from marshmallow import INCLUDE, RAISE, Schema, fields, validate

from api.toolkit import paging
from api.toolkit.blueprints import Blueprint
from api.toolkit.context import caller, tenant, transaction
from api.toolkit.requests import PageQuery, StrictSchema
from api.v1.responses import VersionPage, WorkflowPage, WorkflowShown
from orchestrator import workflows
from orchestrator.models import Role, Version, Workflow
from orchestrator.spec.parser import SPEC_SCHEMA

blueprint = Blueprint(
    "workflows", __name__, url_prefix="/api/v1/workflows", description="Workflows"
)


class SpecAsked(Schema):
    """A workflow's spec; the core reads it, and says what is wrong with it."""

    class Meta:
        unknown = INCLUDE


class Place(StrictSchema):
    """In which project."""

    project = fields.String(validate=validate.Length(1, 100))


class WorkflowFilter(PageQuery, Place):
    """Which part of the list, and of which project."""


@blueprint.route("", methods=["POST"])
@blueprint.doc(requestBody={"content": {"application/json": {"schema": SPEC_SCHEMA}}})
@blueprint.arguments(Place, location="query", unknown=RAISE)
@blueprint.arguments(SpecAsked)
@blueprint.response(201, WorkflowShown)
@blueprint.alt_response(200, schema=WorkflowShown, description="This is the latest version already")
def register(
    query: dict[str, Any], body: dict[str, Any]
) -> tuple[dict[str, Any], int, dict[str, str]]:
    """Register a workflow or its next version

    The same spec as the latest version is that version again, not a new one. With `project` the
    workflow goes to that project; a new one without it goes to the tenant's first project.
    """
    caller().must_be(Role.ADMIN)
    with transaction() as session:
        workflow, version, made = workflows.register(session, tenant(), body, **query)
    address = {"Location": url_for("workflows.show", name=workflow.name)}
    return _shown(workflow, version), 201 if made else 200, address


@blueprint.route("")
@blueprint.arguments(WorkflowFilter, location="query", unknown=RAISE)
@blueprint.response(200, WorkflowPage)
def page(query: dict[str, Any]) -> dict[str, Any]:
    """List workflows by name"""
    (after,) = paging.decode(query.pop("cursor", None), str) or ("",)
    limit = query.pop("limit")
    with transaction() as session:
        found = workflows.page(session, tenant(), **query, after=after, limit=limit + 1)
    return paging.page(found, limit, lambda last: (last.name,))


@blueprint.route("/<name>")
@blueprint.response(200, WorkflowShown)
def show(name: str) -> dict[str, Any]:
    """Get a workflow with the spec of its latest version"""
    with transaction() as session:
        workflow = workflows.get(session, tenant(), name)
        return _shown(workflow, workflows.get_version(session, workflow))


@blueprint.route("/<name>/versions")
@blueprint.arguments(PageQuery, location="query", unknown=RAISE)
@blueprint.response(200, VersionPage)
def versions(query: dict[str, Any], name: str) -> dict[str, Any]:
    """List the versions of a workflow, latest first"""
    (before,) = paging.decode(query.get("cursor"), int) or (None,)
    limit = query["limit"]
    with transaction() as session:
        workflow = workflows.get(session, tenant(), name)
        found = workflows.versions(session, workflow, before=before, limit=limit + 1)
    return paging.page(found, limit, lambda last: (last.number,))


def _shown(workflow: Workflow, version: Version) -> dict[str, Any]:
    return {**vars(workflow), "spec": version.spec}
