"""Tenants and their projects."""

from collections.abc import Mapping
from typing import Any
from uuid import UUID

from sqlalchemy import func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from orchestrator.access import keys
from orchestrator.access.keys import BOOTSTRAP, NewKey
from orchestrator.errors import Conflict, NotFound
from orchestrator.models import Key, Project, Role, Tenant

DEFAULT_TENANT = "default"


def ensure_default(session: Session, admin_key: str, *, only: bool = False) -> Tenant:
    """Make tenant and project `default`, and let `admin_key` speak for it; twice is harmless.

    With `only`, earlier keys that were made so expire, and `admin_key` is good again if it was one
    of them. A key that was revoked stays revoked.
    """
    session.execute(insert(Tenant).values(name=DEFAULT_TENANT).on_conflict_do_nothing())
    tenant = session.scalars(select(Tenant).where(Tenant.name == DEFAULT_TENANT)).one()
    project = insert(Project).values(tenant_id=tenant.id, name=DEFAULT_TENANT)
    session.execute(project.on_conflict_do_nothing())
    made = keys.key_row(tenant.id, admin_key, NewKey(name=BOOTSTRAP, role=Role.ADMIN))
    columns = ("tenant_id", "name", "prefix", "hash", "role")
    values = {name: getattr(made, name) for name in columns}
    session.execute(insert(Key).values(values).on_conflict_do_nothing())
    if only:
        ours = update(Key).where(Key.tenant_id == tenant.id, Key.name == BOOTSTRAP)
        ends = func.least(Key.expires_at, func.now())
        session.execute(ours.where(Key.hash == made.hash).values(expires_at=None))
        session.execute(ours.where(Key.hash != made.hash).values(expires_at=ends))
    return tenant


def create_tenant(session: Session, name: str) -> tuple[Tenant, str]:
    """Make a tenant with a project `default` and an admin key, the second value, shown only here.

    Raises Conflict when there is one of this name.
    """
    made = insert(Tenant).values(name=name).on_conflict_do_nothing().returning(Tenant)
    tenant = session.scalar(made)
    if tenant is None:
        raise Conflict(f"there is a tenant {name!r} already")
    secret = keys.new_secret()
    session.add(Project(tenant_id=tenant.id, name=DEFAULT_TENANT))
    session.add(keys.key_row(tenant.id, secret, NewKey(name="first", role=Role.ADMIN)))
    session.flush()
    return tenant, secret


def all_tenants(session: Session) -> list[Tenant]:
    """Every tenant that the connection may see, oldest first."""
    return list(session.scalars(select(Tenant).order_by(Tenant.number)))


def get_tenant(session: Session, caller_tenant: UUID, tenant_id: UUID) -> Tenant:
    """The caller's own tenant; another one is as good as none. Raises NotFound."""
    asked = select(Tenant).where(Tenant.id == tenant_id, Tenant.id == caller_tenant)
    tenant = session.scalar(asked)
    if tenant is None:
        raise NotFound(f"there is no tenant {tenant_id}")
    return tenant


def change_tenant(
    session: Session, caller_tenant: UUID, tenant_id: UUID, settings: Mapping[str, Any]
) -> Tenant:
    """Put settings over those of a tenant; None takes one away. Raises NotFound."""
    tenant = get_tenant(session, caller_tenant, tenant_id)
    session.refresh(tenant, with_for_update=True)
    merged = {**tenant.settings, **settings}
    tenant.settings = {name: value for name, value in merged.items() if value is not None}
    session.flush()
    return tenant


def page_of_projects(
    session: Session, tenant_id: UUID, *, after: int = 0, limit: int = 50
) -> list[Project]:
    """Projects in the order they were made, those after a number."""
    asked = select(Project).where(Project.tenant_id == tenant_id, Project.number > after)
    return list(session.scalars(asked.order_by(Project.number).limit(limit)))


def get_project(session: Session, tenant_id: UUID, project_id: UUID) -> Project:
    """A project by id. Raises NotFound."""
    asked = select(Project).where(Project.tenant_id == tenant_id, Project.id == project_id)
    found = session.scalar(asked)
    if found is None:
        raise NotFound(f"there is no project {project_id}")
    return found


def get_project_by_name(session: Session, tenant_id: UUID, name: str) -> Project:
    """A project by name. Raises NotFound."""
    found = _named(session, tenant_id, name)
    if found is None:
        raise NotFound(f"there is no project {name!r}")
    return found


def create_project(session: Session, tenant_id: UUID, name: str) -> Project:
    """Make a project. Raises Conflict when there is one of this name."""
    _claim_name(session, tenant_id, name)
    made = Project(tenant_id=tenant_id, name=name)
    session.add(made)
    session.flush()
    return made


def rename_project(session: Session, tenant_id: UUID, project_id: UUID, name: str) -> Project:
    """Give a project another name. Raises NotFound, or Conflict when the name is taken."""
    found = get_project(session, tenant_id, project_id)
    if found.name != name:
        _claim_name(session, tenant_id, name)
        found.name = name
        session.flush()
    return found


def default_project(session: Session, tenant_id: UUID) -> UUID:
    """The project that a workflow belongs to when it names none."""
    asked = select(Project.id).where(Project.tenant_id == tenant_id).order_by(Project.number)
    return session.scalars(asked.limit(1)).one()


def _claim_name(session: Session, tenant_id: UUID, name: str) -> None:
    # Names are given one at a time; runs, whose foreign keys share this row, need not wait.
    asked = select(Tenant).where(Tenant.id == tenant_id)
    session.execute(asked.with_for_update(key_share=True))
    if _named(session, tenant_id, name) is not None:
        raise Conflict(f"there is a project {name!r} already")


def _named(session: Session, tenant_id: UUID, name: str) -> Project | None:
    asked = select(Project).where(Project.tenant_id == tenant_id, Project.name == name)
    return session.scalar(asked)
