"""Tenants and their projects."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from orchestrator import audit
from orchestrator.access import keys
from orchestrator.access.keys import BOOTSTRAP, NewKey
from orchestrator.access.permissions import DEFAULT_TENANT
from orchestrator.db import lookups
from orchestrator.errors import Conflict, NotFound
from orchestrator.models import Key, Project, Role, Tenant


def ensure_default(session: Session, admin_key: str, *, only: bool = False) -> Tenant:
    """Create tenant and project `default` with the key `admin_key`; idempotent.

    With `only`, earlier admin keys expire, and `admin_key` is valid again if it was one of them. A
    revoked key stays revoked.
    """
    added = insert(Tenant).values(name=DEFAULT_TENANT).on_conflict_do_nothing()
    is_new = session.scalar(added.returning(Tenant.id)) is not None
    tenant = session.scalars(select(Tenant).where(Tenant.name == DEFAULT_TENANT)).one()
    project = insert(Project).values(tenant_id=tenant.id, name=DEFAULT_TENANT)
    session.execute(project.on_conflict_do_nothing())
    key = keys.key_row(tenant.id, admin_key, NewKey(name=BOOTSTRAP, role=Role.ADMIN))
    values = {name: getattr(key, name) for name in ("tenant_id", "name", "prefix", "hash", "role")}
    before = _admin_keys(session, tenant.id)
    session.execute(insert(Key).values(values).on_conflict_do_nothing())
    if only:
        statement = update(Key).where(Key.tenant_id == tenant.id, Key.name == BOOTSTRAP)
        end = func.least(Key.expires_at, func.now())
        session.execute(statement.where(Key.hash == key.hash).values(expires_at=None))
        session.execute(statement.where(Key.hash != key.hash).values(expires_at=end))
    if is_new:
        audit.record(session, tenant.id, "tenant.create", tenant.id, after={"name": tenant.name})
    _record_admin_keys(session, tenant.id, before)
    return tenant


def _admin_keys(session: Session, tenant_id: UUID) -> dict[UUID, datetime | None]:
    """When the keys from the setting ADMIN_KEY expire, by their ids."""
    statement = select(Key.id, Key.expires_at)
    statement = statement.where(Key.tenant_id == tenant_id, Key.name == BOOTSTRAP)
    return {row.id: row.expires_at for row in session.execute(statement)}


def _record_admin_keys(
    session: Session, tenant_id: UUID, before: Mapping[UUID, datetime | None]
) -> None:
    """Record the keys that are new, expired now, or are valid again."""
    for key_id, expires_at in _admin_keys(session, tenant_id).items():
        if key_id not in before:
            after = {"name": BOOTSTRAP, "role": Role.ADMIN}
            audit.record(session, tenant_id, "key.create", key_id, after=after)
        elif expires_at != before[key_id]:
            change = {"before": {"expires_at": before[key_id]}, "after": {"expires_at": expires_at}}
            audit.record(session, tenant_id, "key.change", key_id, **change)


def create_tenant(session: Session, name: str) -> tuple[Tenant, str]:
    """Create a tenant with a project `default` and an admin key, whose secret is the second value.

    Raises Conflict for a name that exists.
    """
    statement = insert(Tenant).values(name=name).on_conflict_do_nothing().returning(Tenant)
    tenant = session.scalar(statement)
    if tenant is None:
        raise Conflict(f"there is a tenant {name!r} already")
    secret = keys.new_secret()
    session.add(Project(tenant_id=tenant.id, name=DEFAULT_TENANT))
    key = keys.key_row(tenant.id, secret, NewKey(name="first", role=Role.ADMIN))
    session.add(key)
    session.flush()
    audit.record(session, tenant.id, "tenant.create", tenant.id, after={"name": name})
    keys.record_created(session, key)
    return tenant, secret


def all_tenants(session: Session) -> list[Tenant]:
    """Every tenant that the connection may see, oldest first."""
    return list(session.scalars(select(Tenant).order_by(Tenant.number)))


def get_tenant(session: Session, caller_tenant: UUID, tenant_id: UUID) -> Tenant:
    """The caller's own tenant. Raises NotFound, also for another tenant."""
    statement = select(Tenant).where(Tenant.id == tenant_id, Tenant.id == caller_tenant)
    tenant = session.scalar(statement)
    if tenant is None:
        raise NotFound(f"there is no tenant {tenant_id}")
    return tenant


def change_tenant(
    session: Session, caller_tenant: UUID, tenant_id: UUID, settings: Mapping[str, Any]
) -> Tenant:
    """Merge settings into those of a tenant; None removes one. Raises NotFound."""
    tenant = get_tenant(session, caller_tenant, tenant_id)
    session.refresh(tenant, with_for_update=True)
    before, merged = tenant.settings, {**tenant.settings, **settings}
    tenant.settings = {name: value for name, value in merged.items() if value is not None}
    session.flush()
    change = {"before": before, "after": tenant.settings}
    audit.record(session, tenant.id, "tenant.change", tenant.id, **change)
    return tenant


def page_of_projects(
    session: Session, tenant_id: UUID, *, after: int = 0, limit: int = 50
) -> list[Project]:
    """Projects with a number after `after`, oldest first."""
    statement = select(Project).where(Project.tenant_id == tenant_id)
    return lookups.page_after(session, statement, Project.number, after, limit)


def get_project(session: Session, tenant_id: UUID, which: UUID | str) -> Project:
    """A project by id or name. Raises NotFound."""
    return lookups.find(session, Project, tenant_id, which)


def create_project(session: Session, tenant_id: UUID, name: str) -> Project:
    """Create a project. Raises Conflict for a name that exists."""
    _check_name(session, tenant_id, name)
    project = Project(tenant_id=tenant_id, name=name)
    session.add(project)
    session.flush()
    audit.record(session, tenant_id, "project.create", project.id, after={"name": name})
    return project


def rename_project(session: Session, tenant_id: UUID, project_id: UUID, name: str) -> Project:
    """Rename a project. Raises NotFound, or Conflict for a name that exists."""
    project = get_project(session, tenant_id, project_id)
    if project.name != name:
        _check_name(session, tenant_id, name)
        change = {"before": {"name": project.name}, "after": {"name": name}}
        audit.record(session, tenant_id, "project.rename", project.id, **change)
        project.name = name
        session.flush()
    return project


def default_project(session: Session, tenant_id: UUID) -> UUID:
    """The tenant's first project: the default of a workflow."""
    statement = select(Project.id).where(Project.tenant_id == tenant_id).order_by(Project.number)
    return session.scalars(statement.limit(1)).one()


def _check_name(session: Session, tenant_id: UUID, name: str) -> None:
    # Names are checked one at a time. FOR NO KEY UPDATE does not block inserts of runs, whose
    # foreign keys share the tenant's row.
    statement = select(Tenant).where(Tenant.id == tenant_id)
    session.execute(statement.with_for_update(key_share=True))
    if lookups.count(session, Project, Project.tenant_id == tenant_id, Project.name == name):
        raise Conflict(f"there is a project {name!r} already")
