"""`/api/v1/tenants` and `/api/v1/projects`: for whom a key speaks, and the parts of its work."""

from typing import Any
from uuid import UUID

from flask import url_for
from marshmallow import RAISE, Schema, fields, validate

from api.toolkit import paging
from api.toolkit.blueprints import Blueprint
from api.toolkit.context import caller, tenant, transaction
from api.toolkit.fields import ResponseSchema, Timestamp
from api.toolkit.requests import PageQuery, StrictSchema, name_field
from orchestrator.access import tenants
from orchestrator.models import Project, Role, Tenant

blueprint = Blueprint("tenants", __name__, url_prefix="/api/v1/tenants", description="Tenants")
projects = Blueprint("projects", __name__, url_prefix="/api/v1/projects", description="Projects")


class TenantChange(StrictSchema):
    """What may be changed of a tenant."""

    settings = fields.Dict(
        keys=fields.String(validate=validate.Length(1, 100)),
        validate=validate.Length(max=50),
        metadata={"description": "over those there are; null takes one away"},
    )


class TenantShown(ResponseSchema):
    """One tenant."""

    id = fields.UUID()
    number = fields.Integer()
    name = fields.String()
    settings = fields.Dict(metadata={"description": "what a published API lets a tenant choose"})
    created_at = Timestamp()


class TenantPage(Schema):
    """The tenants that a key speaks for: one."""

    items = fields.List(fields.Nested(TenantShown))
    next_cursor = fields.String(allow_none=True)


class ProjectAsked(StrictSchema):
    """A project, by its name."""

    name = name_field()


class ProjectShown(ResponseSchema):
    """One project."""

    id = fields.UUID()
    number = fields.Integer()
    name = fields.String()
    created_at = Timestamp()


class ProjectPage(Schema):
    """One page of projects; `next_cursor` is null on the last one."""

    items = fields.List(fields.Nested(ProjectShown))
    next_cursor = fields.String(allow_none=True)


@blueprint.route("")
@blueprint.response(200, TenantPage)
def mine() -> dict[str, Any]:
    """List the tenants that the key speaks for"""
    with transaction() as session:
        found = tenants.get_tenant(session, tenant(), tenant())
    return {"items": [found], "next_cursor": None}


@blueprint.route("/<uuid:tenant_id>")
@blueprint.response(200, TenantShown)
def show(tenant_id: UUID) -> Tenant:
    """Get a tenant"""
    with transaction() as session:
        return tenants.get_tenant(session, tenant(), tenant_id)


@blueprint.route("/<uuid:tenant_id>", methods=["PATCH"])
@blueprint.arguments(TenantChange)
@blueprint.response(200, TenantShown)
def change(body: dict[str, Any], tenant_id: UUID) -> Tenant:
    """Change the settings of a tenant"""
    caller().must_be(Role.ADMIN)
    with transaction() as session:
        return tenants.change_tenant(session, tenant(), tenant_id, body.get("settings", {}))


@projects.route("", methods=["POST"])
@projects.arguments(ProjectAsked)
@projects.response(201, ProjectShown)
def create(body: dict[str, Any]) -> tuple[Project, int, dict[str, str]]:
    """Make a project"""
    caller().must_be(Role.ADMIN)
    with transaction() as session:
        made = tenants.create_project(session, tenant(), body["name"])
    return made, 201, {"Location": url_for("projects.show_project", project_id=made.id)}


@projects.route("")
@projects.arguments(PageQuery, location="query", unknown=RAISE)
@projects.response(200, ProjectPage)
def page(query: dict[str, Any]) -> dict[str, Any]:
    """List projects, the oldest first"""
    (after,) = paging.decode(query.get("cursor"), int) or (0,)
    limit = query["limit"]
    with transaction() as session:
        found = tenants.page_of_projects(session, tenant(), after=after, limit=limit + 1)
    return paging.page(found, limit, lambda last: (last.number,))


@projects.route("/<uuid:project_id>")
@projects.response(200, ProjectShown)
def show_project(project_id: UUID) -> Project:
    """Get a project"""
    with transaction() as session:
        return tenants.get_project(session, tenant(), project_id)


@projects.route("/<uuid:project_id>", methods=["PATCH"])
@projects.arguments(ProjectAsked)
@projects.response(200, ProjectShown)
def rename(body: dict[str, Any], project_id: UUID) -> Project:
    """Give a project another name"""
    caller().must_be(Role.ADMIN)
    with transaction() as session:
        return tenants.rename_project(session, tenant(), project_id, body["name"])
