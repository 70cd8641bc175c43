"""Register versions of workflows."""

from typing import Any
from uuid import UUID

from sqlalchemy import func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from orchestrator import json_values
from orchestrator.access import tenants
from orchestrator.models import Queue, QueueUse, Version, Workflow
from orchestrator.spec.graph import plan
from orchestrator.spec.model import WorkflowSpec
from orchestrator.spec.parser import parse_spec
from orchestrator.workflows.queries import find_version


def register(
    session: Session, tenant_id: UUID, document: dict[str, Any], *, project: str | None = None
) -> tuple[Workflow, Version, bool]:
    """Register a spec; the same as the latest version is that version, not a new one.

    With a project it goes there, also from another one; without, it stays where it is. The third
    value says whether a version was made. Raises InvalidSpec, and NotFound for the project.
    """
    spec = parse_spec(document)
    place = tenants.get_project_by_name(session, tenant_id, project).id if project else None
    workflow = _locked(session, tenant_id, spec, place)
    _name_queues(session, tenant_id, spec)
    fingerprint = json_values.fingerprint(document)
    latest = find_version(session, workflow, workflow.version)
    if latest is not None and latest.fingerprint == fingerprint:
        return workflow, latest, False
    version = Version(
        workflow_id=workflow.id,
        number=workflow.version + 1,
        spec=document,
        plan=plan(spec),
        fingerprint=fingerprint,
    )
    session.add(version)
    session.execute(
        update(Workflow)
        .where(Workflow.id == workflow.id)
        .values(
            version=version.number,
            service=spec.service,
            description=spec.description,
            updated_at=func.now(),
        )
    )
    session.flush()
    session.refresh(workflow)
    return workflow, version, True


def annotate(session: Session, workflow: Workflow, **members: Any) -> None:
    """Keep with a workflow what only a client understands; its other annotations stay."""
    changed = update(Workflow).where(Workflow.id == workflow.id)
    session.execute(changed.values(annotations=Workflow.annotations.concat(members)))
    session.refresh(workflow)


def _locked(
    session: Session, tenant_id: UUID, spec: WorkflowSpec, project_id: UUID | None
) -> Workflow:
    """The workflow's row, made if it is new, and locked so that versions are numbered in turn."""
    session.execute(
        insert(Workflow)
        .values(
            tenant_id=tenant_id,
            project_id=project_id or tenants.default_project(session, tenant_id),
            name=spec.name,
            service=spec.service,
            description=spec.description,
            version=0,
        )
        .on_conflict_do_nothing()
    )
    asked = select(Workflow).where(Workflow.tenant_id == tenant_id, Workflow.name == spec.name)
    asked = asked.with_for_update().execution_options(populate_existing=True)
    workflow = session.scalars(asked).one()
    if project_id is not None:
        workflow.project_id = project_id
    return workflow


def _name_queues(session: Session, tenant_id: UUID, spec: WorkflowSpec) -> None:
    """Let workers' queues be known; also for a version that is there: an older release made it."""
    used = sorted({spec.queue, *(step.queue for step in spec.steps if step.queue)})
    names = [{"name": name} for name in used]
    session.execute(insert(Queue).values(names).on_conflict_do_nothing())
    uses = [{"tenant_id": tenant_id, "name": name} for name in used]
    session.execute(insert(QueueUse).values(uses).on_conflict_do_nothing())
