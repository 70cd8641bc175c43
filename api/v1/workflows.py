"""`/api/v1/workflows`: register workflows and read them."""

from collections.abc import Sequence
from typing import Any

from marshmallow import INCLUDE, RAISE, Schema, fields, validate

from api.toolkit.blueprints import Blueprint, Created, created
from api.toolkit.context import tenant, transaction
from api.toolkit.fields import PageQuery, StrictSchema
from api.v1.responses import VersionSchema, WorkflowSchema, WorkflowSummarySchema
from orchestrator import workflows
from orchestrator.models import Version, Workflow
from orchestrator.spec.parser import SPEC_SCHEMA

blueprint = Blueprint("workflows", __name__, url_prefix="/workflows", description="Workflows")


class SpecRequest(Schema):
    """A workflow's spec, validated by `orchestrator.spec`."""

    class Meta:
        unknown = INCLUDE


class ProjectQuery(StrictSchema):
    """The name of a project."""

    project = fields.String(validate=validate.Length(1, 100))


class WorkflowListQuery(PageQuery, ProjectQuery):
    """Filter and page of a list of workflows."""


@blueprint.route("", methods=["POST"])
@blueprint.doc(requestBody={"content": {"application/json": {"schema": SPEC_SCHEMA}}})
@blueprint.arguments(ProjectQuery, location="query", unknown=RAISE)
@blueprint.arguments(SpecRequest)
@blueprint.response(201, WorkflowSchema)
@blueprint.alt_response(
    200, schema=WorkflowSchema, description="This is the latest version already"
)
def register(query: dict[str, Any], body: dict[str, Any]) -> Created:
    """Register a workflow or its next version

    The same spec as the latest version is that version again, not a new one. With `project` the
    workflow goes to that project; a new one without it goes to the tenant's first project.
    """
    with transaction() as session:
        workflow, version, is_new = workflows.register(session, tenant(), body, **query)
    status = 201 if is_new else 200
    view = _with_spec(workflow, version)
    return created(view, "workflows.show", status=status, name=workflow.name)


@blueprint.route("")
@blueprint.paginated(WorkflowSummarySchema, "name", str, query=WorkflowListQuery)
def page(query: dict[str, Any]) -> Sequence[Workflow]:
    """List workflows by name"""
    with transaction() as session:
        return workflows.page(session, tenant(), **query)


@blueprint.route("/<name>")
@blueprint.response(200, WorkflowSchema)
def show(name: str) -> dict[str, Any]:
    """Get a workflow with the spec of its latest version"""
    with transaction() as session:
        workflow = workflows.get(session, tenant(), name)
        return _with_spec(workflow, workflows.get_version(session, workflow))


@blueprint.route("/<name>/versions")
@blueprint.paginated(VersionSchema, "number", int, bound="before")
def versions(query: dict[str, Any], name: str) -> Sequence[Version]:
    """List the versions of a workflow, latest first"""
    with transaction() as session:
        workflow = workflows.get(session, tenant(), name)
        return workflows.versions(session, workflow, **query)


def _with_spec(workflow: Workflow, version: Version) -> dict[str, Any]:
    return {**vars(workflow), "spec": version.spec}
