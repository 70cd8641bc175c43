"""Look up and list workflows and their versions."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import ARRAY, ColumnElement, Integer, String, and_, cast, func, select, true, tuple_
from sqlalchemy.dialects.postgresql import array
from sqlalchemy.orm import Session, aliased

from orchestrator.access import tenants
from orchestrator.db import lookups
from orchestrator.models import Run, Version, Workflow
from orchestrator.spec.hidden_params import Parts, hidden_parts
from orchestrator.workflows.sources import no_version

_PARAMS = select(Version.spec["params"])


def get(session: Session, tenant_id: UUID, which: str | UUID | int) -> Workflow:
    """A workflow by name, id or number. Raises NotFound."""
    return lookups.find(session, Workflow, tenant_id, which)


def by_title(session: Session, tenant_id: UUID, name: str) -> Workflow:
    """A workflow by its name or display name. Raises NotFound."""
    statement = select(Workflow).where(Workflow.tenant_id == tenant_id, Workflow.title == name)
    workflow = session.scalar(statement.order_by(Workflow.id).limit(1))
    return workflow or get(session, tenant_id, name)


def titles(session: Session, tenant_id: UUID) -> Mapping[str, str]:
    """The display names of the workflows that have one, by name."""
    has_title = (Workflow.tenant_id == tenant_id, Workflow.title.is_not(None))
    rows = session.execute(select(Workflow.name, Workflow.title).where(*has_title))
    return {row.name: row.title for row in rows}


def of_runs(session: Session, runs: Iterable[Run]) -> Mapping[UUID, Workflow]:
    """The workflows of runs, by workflow id."""
    ids = {run.workflow_id for run in runs}
    return {each.id: each for each in session.scalars(select(Workflow).where(Workflow.id.in_(ids)))}


def titles_of_runs(session: Session, runs: Iterable[Run]) -> Mapping[UUID, str | None]:
    """The display name of each run's workflow, if it has one, by version id."""
    versions = select(Version.id, Workflow.title).join(Workflow, Version.workflow_id == Workflow.id)
    rows = session.execute(versions.where(Version.id.in_({run.version_id for run in runs})))
    return {row.id: row.title for row in rows}


def get_version(session: Session, workflow: Workflow, number: int | None = None) -> Version:
    """One version of a workflow, the latest by default. Raises NotFound."""
    version = find_version(session, workflow, workflow.version if number is None else number)
    if version is None:
        raise no_version(workflow.name, workflow.version, number)
    return version


def for_run(
    session: Session, tenant_id: UUID, name: str, number: int | None
) -> tuple[Workflow, Version]:
    """A workflow by name with a version, the latest by default, by one query. Raises NotFound."""
    version = Workflow.version if number is None else number
    same = and_(Version.workflow_id == Workflow.id, Version.number == version)
    statement = select(Workflow, Version).join(Version, same)
    statement = statement.where(Workflow.tenant_id == tenant_id, Workflow.name == name)
    row = session.execute(statement).first()
    if row is not None:
        return row.Workflow, row.Version
    workflow = get(session, tenant_id, name)
    return workflow, get_version(session, workflow, number)


def page(
    session: Session,
    tenant_id: UUID,
    *,
    project: str | None = None,
    after: str = "",
    limit: int = 50,
) -> list[Workflow]:
    """Workflows by name, of one project or all. Raises NotFound for the project."""
    statement = select(Workflow).where(Workflow.tenant_id == tenant_id)
    if project is not None:
        project_id = tenants.get_project(session, tenant_id, project).id
        statement = statement.where(Workflow.project_id == project_id)
    return lookups.page_after(session, statement, Workflow.name, after, limit)


def newest(
    session: Session,
    tenant_id: UUID,
    *,
    limit: int = 50,
    offset: int = 0,
    before: UUID | None = None,
) -> list[Workflow]:
    """Workflows, newest first; with `before` the older ones."""
    statement = select(Workflow).where(Workflow.tenant_id == tenant_id).order_by(Workflow.id.desc())
    if before is not None:
        statement = statement.where(Workflow.id < before)
    return list(session.scalars(statement.limit(limit).offset(offset)))


def count(session: Session, tenant_id: UUID, **which: Any) -> int:
    """The number of a tenant's workflows, or of those that `search` gives."""
    return lookups.count(session, Workflow, *_conditions(tenant_id, **which))


def latest_versions(session: Session, workflows: Iterable[Workflow]) -> Mapping[UUID, Version]:
    """The latest version of each workflow, by the workflow's id."""
    latest = [(workflow.id, workflow.version) for workflow in workflows]
    statement = select(Version).where(tuple_(Version.workflow_id, Version.number).in_(latest))
    return {version.workflow_id: version for version in session.scalars(statement)}


def latest_runs(session: Session, workflows: Iterable[Workflow]) -> Mapping[UUID, Run]:
    """The newest run of each workflow that has any, by the workflow's id."""
    of_one = select(Run).where(Run.tenant_id == Workflow.tenant_id, Run.workflow == Workflow.name)
    last = of_one.order_by(Run.id.desc()).limit(1).correlate(Workflow).lateral()
    run = aliased(Run, last)
    statement = select(run).select_from(Workflow).join(last, true())
    statement = statement.where(Workflow.id.in_([workflow.id for workflow in workflows]))
    return {each.workflow_id: each for each in session.scalars(statement)}


def search(
    session: Session,
    tenant_id: UUID,
    *,
    limit: int = 50,
    offset: int = 0,
    after: str = "",
    **which: Any,
) -> list[Workflow]:
    """Workflows by name, from `after` on: those whose `name` contains a text, in any case, of
    `names`, created between `created_after` and `created_before`.
    """
    conditions = [*_conditions(tenant_id, **which), Workflow.name > after]
    statement = select(Workflow).where(*conditions).order_by(Workflow.name)
    return list(session.scalars(statement.limit(limit).offset(offset)))


def tagged(session: Session, tenant_id: UUID, tags: Sequence[str]) -> list[str]:
    """The names of the workflows whose latest version has one or more of these tags."""
    latest = and_(Version.workflow_id == Workflow.id, Version.number == Workflow.version)
    statement = select(Workflow.name).join(Version, latest).where(Workflow.tenant_id == tenant_id)
    return list(session.scalars(statement.where(Version.spec["tags"].has_any(array(tags)))))


def tagged_version(session: Session, workflow: Workflow, tag: str) -> Version | None:
    """The version of a workflow that has a tag, if one has."""
    same = (Version.workflow_id == workflow.id, Version.tag == tag)
    return session.scalar(select(Version).where(*same).order_by(Version.number.desc()).limit(1))


def versions(
    session: Session, workflow: Workflow, *, before: int | None = None, limit: int = 50
) -> list[Version]:
    """The versions of a workflow, latest first."""
    statement = select(Version).where(Version.workflow_id == workflow.id)
    return lookups.page_before(session, statement, Version.number, before, limit)


def params_schema(session: Session, version_id: UUID) -> Mapping[str, Any]:
    """The JSON Schema of the parameters that a version of a workflow takes."""
    return session.scalar(_PARAMS.where(Version.id == version_id)) or {}


def hidden_parts_of_version(session: Session, version_id: UUID) -> Parts:
    """The parts of the parameters that a version of a workflow hides."""
    return hidden_parts(session.scalar(_PARAMS.where(Version.id == version_id)))


def hidden_parts_of(
    session: Session, tenant_id: UUID, names_and_numbers: Collection[tuple[str, int | None]]
) -> dict[tuple[str, int | None], Parts]:
    """The parts of the parameters that workflows hide, by name and version, the latest for None."""
    names, numbers = (list(column) for column in zip(*names_and_numbers, strict=True))
    arrays = cast(names, ARRAY(String)), cast(numbers, ARRAY(Integer))
    pairs = func.unnest(*arrays).table_valued("name", "number", name="pairs").render_derived()
    version = func.coalesce(pairs.c.number, Workflow.version)
    same = and_(Version.workflow_id == Workflow.id, Version.number == version)
    statement = select(pairs.c.name, pairs.c.number, Version.spec["params"])
    statement = statement.join(Workflow, Workflow.name == pairs.c.name).join(Version, same)
    rows = session.execute(statement.where(Workflow.tenant_id == tenant_id))
    return {(name, number): hidden_parts(params) for name, number, params in rows}


def find_version(session: Session, workflow: Workflow, number: int) -> Version | None:
    """One version of a workflow, if it exists."""
    same = (Version.workflow_id == workflow.id, Version.number == number)
    return session.scalar(select(Version).where(*same))


def _conditions(
    tenant_id: UUID,
    *,
    name: str = "",
    names: Collection[str] | None = None,
    created_after: datetime | None = None,
    created_before: datetime | None = None,
) -> list[ColumnElement[bool]]:
    conditions = [Workflow.tenant_id == tenant_id]
    if name:
        conditions.append(Workflow.name.icontains(name, autoescape=True))
    if names is not None:
        conditions.append(Workflow.name.in_(names))
    if created_after is not None:
        conditions.append(Workflow.created_at > created_after)
    if created_before is not None:
        conditions.append(Workflow.created_at < created_before)
    return conditions
