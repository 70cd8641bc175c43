"""Look up workflows and their versions."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from uuid import UUID

from sqlalchemy import and_, func, select, true, tuple_
from sqlalchemy.dialects.postgresql import array
from sqlalchemy.orm import Session, aliased

from orchestrator.access import tenants
from orchestrator.errors import NotFound
from orchestrator.models import Run, Version, Workflow, numbered_or_id


def get(session: Session, tenant_id: UUID, which: str | UUID | int) -> Workflow:
    """A workflow by name, id or number. Raises NotFound."""
    right = Workflow.name == which if isinstance(which, str) else numbered_or_id(Workflow, which)
    workflow = session.scalar(select(Workflow).where(Workflow.tenant_id == tenant_id, right))
    if workflow is None:
        named = repr(which) if isinstance(which, str) else which
        raise NotFound(f"there is no workflow {named}")
    return workflow


def of_runs(session: Session, runs: Iterable[Run]) -> Mapping[UUID, Workflow]:
    """The workflows of runs, by id."""
    ids = {run.workflow_id for run in runs}
    return {each.id: each for each in session.scalars(select(Workflow).where(Workflow.id.in_(ids)))}


def get_version(session: Session, workflow: Workflow, number: int | None = None) -> Version:
    """One version of a workflow, the latest by default. Raises NotFound."""
    version = find_version(session, workflow, workflow.version if number is None else number)
    if version is None:
        raise NotFound(
            f"workflow {workflow.name!r} has no version {number}; the latest is {workflow.version}"
        )
    return version


def for_run(
    session: Session, tenant_id: UUID, name: str, number: int | None
) -> tuple[Workflow, Version]:
    """A workflow by name with one of its versions, in one question. Raises NotFound."""
    wanted = Workflow.version if number is None else number
    asked = select(Workflow, Version).join(
        Version, (Version.workflow_id == Workflow.id) & (Version.number == wanted)
    )
    found = session.execute(
        asked.where(Workflow.tenant_id == tenant_id, Workflow.name == name)
    ).first()
    if found is not None:
        return found.Workflow, found.Version
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
    """Workflows by name, of one project or all, those after a name. Raises NotFound."""
    asked = select(Workflow).where(Workflow.tenant_id == tenant_id, Workflow.name > after)
    if project is not None:
        place = tenants.get_project_by_name(session, tenant_id, project)
        asked = asked.where(Workflow.project_id == place.id)
    return list(session.scalars(asked.order_by(Workflow.name).limit(limit)))


def newest(
    session: Session, tenant_id: UUID, *, limit: int = 50, offset: int = 0
) -> list[Workflow]:
    """Workflows, the one that was registered last first."""
    asked = select(Workflow).where(Workflow.tenant_id == tenant_id).order_by(Workflow.id.desc())
    return list(session.scalars(asked.limit(limit).offset(offset)))


def count(session: Session, tenant_id: UUID) -> int:
    """How many workflows a tenant has."""
    asked = select(func.count()).select_from(Workflow).where(Workflow.tenant_id == tenant_id)
    return session.scalars(asked).one()


def latest_versions(session: Session, workflows: Iterable[Workflow]) -> Mapping[UUID, Version]:
    """The latest version of each workflow, by the workflow's id."""
    latest = [(workflow.id, workflow.version) for workflow in workflows]
    asked = select(Version).where(tuple_(Version.workflow_id, Version.number).in_(latest))
    return {version.workflow_id: version for version in session.scalars(asked)}


def latest_runs(session: Session, workflows: Iterable[Workflow]) -> Mapping[UUID, Run]:
    """The run that was made last of each workflow that has any, by the workflow's id."""
    of_one = select(Run).where(Run.tenant_id == Workflow.tenant_id, Run.workflow == Workflow.name)
    last = of_one.order_by(Run.id.desc()).limit(1).correlate(Workflow).lateral()
    run = aliased(Run, last)
    asked = select(run).select_from(Workflow).join(last, true())
    asked = asked.where(Workflow.id.in_([workflow.id for workflow in workflows]))
    return {found.workflow_id: found for found in session.scalars(asked)}


def search(
    session: Session,
    tenant_id: UUID,
    *,
    name: str = "",
    created_after: datetime | None = None,
    created_before: datetime | None = None,
    limit: int = 50,
) -> list[Workflow]:
    """Workflows by name: those with this in their name, in whichever case, and made in between."""
    asked = select(Workflow).where(
        Workflow.tenant_id == tenant_id, Workflow.name.icontains(name, autoescape=True)
    )
    if created_after is not None:
        asked = asked.where(Workflow.created_at > created_after)
    if created_before is not None:
        asked = asked.where(Workflow.created_at < created_before)
    return list(session.scalars(asked.order_by(Workflow.name).limit(limit)))


def tagged(session: Session, tenant_id: UUID, tags: Sequence[str]) -> list[str]:
    """The names of the workflows whose latest version has one or more of these tags."""
    latest = and_(Version.workflow_id == Workflow.id, Version.number == Workflow.version)
    asked = select(Workflow.name).join(Version, latest).where(Workflow.tenant_id == tenant_id)
    return list(session.scalars(asked.where(Version.spec["tags"].has_any(array(tags)))))


def versions(
    session: Session, workflow: Workflow, *, before: int | None = None, limit: int = 50
) -> list[Version]:
    """The versions of a workflow, latest first, those before a number."""
    asked = select(Version).where(Version.workflow_id == workflow.id)
    if before is not None:
        asked = asked.where(Version.number < before)
    return list(session.scalars(asked.order_by(Version.number.desc()).limit(limit)))


def find_version(session: Session, workflow: Workflow, number: int) -> Version | None:
    asked = select(Version).where(Version.workflow_id == workflow.id, Version.number == number)
    return session.scalar(asked)
