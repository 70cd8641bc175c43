"""`/api/v1/tenants` and `/api/v1/projects`: the tenant of a key, and its projects."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from marshmallow import fields, validate

from api.toolkit.blueprints import Blueprint, Created, created
from api.toolkit.context import tenant, transaction
from api.toolkit.fields import BoundedDict, StrictSchema, name_field
from api.toolkit.paging import page_of
from api.toolkit.wire import WireSchema, columns, constant
from orchestrator.access import tenants
from orchestrator.models import Project, Tenant

blueprint = Blueprint("tenants", __name__, url_prefix="/tenants", description="Tenants")
projects_blueprint = Blueprint("projects", __name__, url_prefix="/projects", description="Projects")


class TenantChangeRequest(StrictSchema):
    """The fields of a tenant that can be changed."""

    settings = BoundedDict(
        keys=fields.String(validate=validate.Length(1, 100)),
        validate=validate.Length(max=50),
        metadata={"description": "over those there are; null takes one away"},
    )


class TenantSchema(WireSchema):
    """One tenant."""

    class Meta:
        include = columns(
            Tenant,
            "id number name settings created_at",
            number=constant(fields.Integer, 1, "of those that the key sees"),
            settings="what a published API lets a tenant choose",
        )


class ProjectRequest(StrictSchema):
    """The name of a project."""

    name = name_field()


class ProjectSchema(WireSchema):
    """One project."""

    class Meta:
        include = columns(Project, "id number name created_at")


@blueprint.route("")
@blueprint.response(200, page_of(TenantSchema))
def page() -> dict[str, Any]:
    """List the tenant of the key"""
    with transaction() as session:
        row = tenants.get_tenant(session, tenant(), tenant())
    return {"items": [row], "next_cursor": None}


@blueprint.route("/<uuid:tenant_id>")
@blueprint.response(200, TenantSchema)
def show(tenant_id: UUID) -> Tenant:
    """Get a tenant"""
    with transaction() as session:
        return tenants.get_tenant(session, tenant(), tenant_id)


@blueprint.route("/<uuid:tenant_id>", methods=["PATCH"])
@blueprint.arguments(TenantChangeRequest)
@blueprint.response(200, TenantSchema)
def change(body: dict[str, Any], tenant_id: UUID) -> Tenant:
    """Change the settings of a tenant"""
    with transaction() as session:
        return tenants.change_tenant(session, tenant(), tenant_id, body.get("settings", {}))


@projects_blueprint.route("", methods=["POST"])
@projects_blueprint.arguments(ProjectRequest)
@projects_blueprint.response(201, ProjectSchema)
def create(body: dict[str, Any]) -> Created:
    """Make a project"""
    with transaction() as session:
        project = tenants.create_project(session, tenant(), body["name"])
    return created(project, "projects.show_project", project_id=project.id)


@projects_blueprint.route("")
@projects_blueprint.paginated(ProjectSchema, "number", int)
def list_projects(query: dict[str, Any]) -> Sequence[Project]:
    """List projects, the oldest first"""
    with transaction() as session:
        return tenants.page_of_projects(session, tenant(), **query)


@projects_blueprint.route("/<uuid:project_id>")
@projects_blueprint.response(200, ProjectSchema)
def show_project(project_id: UUID) -> Project:
    """Get a project"""
    with transaction() as session:
        return tenants.get_project(session, tenant(), project_id)


@projects_blueprint.route("/<uuid:project_id>", methods=["PATCH"])
@projects_blueprint.arguments(ProjectRequest)
@projects_blueprint.response(200, ProjectSchema)
def rename(body: dict[str, Any], project_id: UUID) -> Project:
    """Give a project another name"""
    with transaction() as session:
        return tenants.rename_project(session, tenant(), project_id, body["name"])
