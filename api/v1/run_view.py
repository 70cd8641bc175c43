"""A run with all that belongs to it, as `RunShown` shows it."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any
from uuid import UUID

from sqlalchemy.orm import Session

from orchestrator import runs
from orchestrator.models import Run, Step
from orchestrator.monitoring import status
from orchestrator.outputs import summaries

_SILENT = summaries.StepOutput()


def run(session: Session, tenant_id: UUID, run_id: UUID) -> SimpleNamespace:
    """A run with its steps, what they said, and where it waits. Raises NotFound."""
    found = runs.get_with_steps(session, tenant_id, run_id)
    said = summaries.summaries_of_runs(session, [found])[found.id]
    waiting = status.wait_estimates(session, [found]).get(found.id)
    return _with(
        found,
        progress=said,
        metrics=said.metrics,
        warned=said.warnings,
        data=said.data,
        usage=said.usage,
        queue_position=waiting.position if waiting else None,
        estimated_start_at=waiting.estimated_start_at if waiting else None,
        steps=_steps(session, found, found.steps),
    )


def steps(session: Session, tenant_id: UUID, run_id: UUID) -> list[SimpleNamespace]:
    """The steps of a run with what they said. Raises NotFound."""
    found = runs.get(session, tenant_id, run_id)
    return _steps(session, found, runs.steps(session, found))


def step(session: Session, tenant_id: UUID, run_id: UUID, key: str) -> SimpleNamespace:
    """One step of a run with what it said. Raises NotFound."""
    found = runs.get(session, tenant_id, run_id)
    return _steps(session, found, [runs.step(session, found, key)])[0]


def _steps(session: Session, run: Run, steps: Sequence[Step]) -> list[SimpleNamespace]:
    said = summaries.summaries_of_steps(session, run) if run.started_at is not None else {}
    return [_step(step, said.get(step.key, _SILENT)) for step in steps]


def _step(step: Any, said: summaries.StepOutput) -> SimpleNamespace:
    told = vars(said)
    return _with(step, **{**told, "warned": told["warnings"], "warnings": step.warnings})


def _with(row: Any, **more: Any) -> SimpleNamespace:
    columns = {name: value for name, value in vars(row).items() if not name.startswith("_")}
    return SimpleNamespace(**{**columns, **more})
