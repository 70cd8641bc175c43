"""Register versions of workflows."""

from typing import Any
from uuid import UUID

from sqlalchemy import func, or_, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from orchestrator import audit, json_values
from orchestrator.access import tenants
from orchestrator.db import lookups
from orchestrator.errors import InvalidSpec, Mistake
from orchestrator.models import Queue, QueueUse, Version, Workflow
from orchestrator.spec.graph import plan
from orchestrator.spec.model import WorkflowSpec
from orchestrator.spec.parser import parse_spec
from orchestrator.workflows.queries import find_version, get_version


def register(
    session: Session, tenant_id: UUID, document: dict[str, Any], *, project: str | None = None
) -> tuple[Workflow, Version, bool]:
    """Register a spec as the next version, unless it equals the latest one.

    A project moves the workflow there. The third value is whether a version was created. Raises
    InvalidSpec, also for a title that is the name or title of another workflow, and NotFound for
    the project.
    """
    spec = parse_spec(document)
    project_id = tenants.get_project(session, tenant_id, project).id if project else None
    _check_names(session, tenant_id, spec)
    workflow, before = _upsert_locked(session, tenant_id, spec, project_id)
    _record_queues(session, tenant_id, spec)
    fingerprint = json_values.fingerprint(document)
    last = find_version(session, workflow, workflow.version)
    if last is not None and last.fingerprint == fingerprint:
        _record(session, workflow, before, last)
        return workflow, last, False
    version = Version(
        workflow_id=workflow.id,
        number=workflow.version + 1,
        spec=document,
        plan=plan(spec),
        fingerprint=fingerprint,
    )
    session.add(version)
    latest = {name: getattr(spec, name) for name in ("title", "service", "description")}
    latest["version"] = version.number
    statement = update(Workflow).where(Workflow.id == workflow.id)
    session.execute(statement.values(**latest, updated_at=func.now()))
    session.flush()
    session.refresh(workflow)
    _record(session, workflow, before, version)
    return workflow, version, True


def annotate(session: Session, workflow: Workflow, **annotations: Any) -> None:
    """Merge annotations into those of a workflow."""
    statement = update(Workflow).where(Workflow.id == workflow.id)
    before = {"annotations": workflow.annotations}
    session.execute(statement.values(annotations=Workflow.annotations.concat(annotations)))
    session.refresh(workflow)
    change = {"before": before, "after": {"annotations": workflow.annotations}}
    audit.record(session, workflow.tenant_id, "workflow.annotate", workflow.id, **change)


def tag_version(session: Session, workflow: Workflow, number: int, tag: str) -> Version:
    """Give a version of a workflow a tag, and take it from another one. Raises NotFound."""
    version = get_version(session, workflow, number)
    of_workflow = update(Version).where(Version.workflow_id == workflow.id)
    session.execute(of_workflow.where(Version.tag == tag).values(tag=None))
    session.execute(of_workflow.where(Version.number == number).values(tag=tag))
    after = {"number": number, "tag": tag}
    audit.record(session, workflow.tenant_id, "workflow.tag", workflow.id, after=after)
    session.refresh(version)
    return version


def _check_names(session: Session, tenant_id: UUID, spec: WorkflowSpec) -> None:
    """Raises InvalidSpec if a workflow could not be told from another one by name and title."""
    names = [name for name in (spec.name, spec.title) if name is not None]
    of_tenant = (Workflow.tenant_id == tenant_id, Workflow.name != spec.name)
    same = or_(Workflow.title.in_(names), Workflow.name == spec.title)
    other = session.scalar(select(Workflow.name).where(*of_tenant, same).limit(1))
    if other is not None:
        mistake = Mistake("/title", f"the workflow {other!r} is called so, too; choose another")
        raise InvalidSpec("the spec is not a workflow", mistake)


def _upsert_locked(
    session: Session, tenant_id: UUID, spec: WorkflowSpec, project_id: UUID | None
) -> tuple[Workflow, dict[str, Any]]:
    """The workflow's row, locked: two registrations at a time would use the same number.

    The second value is what a registration changes, before it does.
    """
    first = insert(Workflow).values(
        tenant_id=tenant_id,
        project_id=project_id or tenants.default_project(session, tenant_id),
        name=spec.name,
        title=spec.title,
        service=spec.service,
        description=spec.description,
        version=0,
    )
    session.execute(first.on_conflict_do_nothing())
    workflow = lookups.find(session, Workflow, tenant_id, spec.name, lock=True)
    before = {"version": workflow.version, "project_id": workflow.project_id}
    if project_id is not None:
        workflow.project_id = project_id
    return workflow, before


def _record(session: Session, workflow: Workflow, before: dict[str, Any], version: Version) -> None:
    after = {"version": version.number, "project_id": workflow.project_id}
    named = {"name": workflow.name, "fingerprint": version.fingerprint}
    if after != before:
        change = {"before": before, "after": after | named}
        audit.record(session, workflow.tenant_id, "workflow.register", workflow.id, **change)


def _record_queues(session: Session, tenant_id: UUID, spec: WorkflowSpec) -> None:
    """Insert the queues of a spec, also of an existing version, which an older release stored."""
    names = sorted({spec.queue, *(step.queue for step in spec.steps if step.queue)})
    queues = [{"name": name} for name in names]
    session.execute(insert(Queue).values(queues).on_conflict_do_nothing())
    uses = [{"tenant_id": tenant_id, "name": name} for name in names]
    session.execute(insert(QueueUse).values(uses).on_conflict_do_nothing())
