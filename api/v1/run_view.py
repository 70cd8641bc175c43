"""A run with its steps, their output and its place in the queue, as `RunSchema` dumps it."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any
from uuid import UUID

from sqlalchemy.orm import Session

from api.toolkit import transient_retry
from api.toolkit.context import services
from orchestrator import runs
from orchestrator.models import Run, Step
from orchestrator.monitoring import status
from orchestrator.outputs import summaries

_NO_OUTPUT = summaries.StepOutput()


def current(tenant_id: UUID, run_id: UUID) -> SimpleNamespace:
    """The run as it is now, in a transaction of its own that is repeated after transient errors.

    A response is read so after its change has committed. Raises NotFound.
    """

    def read() -> SimpleNamespace:
        with services().database.transaction(tenant_id, snapshot=True) as session:
            run = runs.get_with_steps(session, tenant_id, run_id)
            output = summaries.summaries_of_runs(session, [run])[run.id]
            wait = status.wait_estimates(session, [run]).get(run.id)
            return _extended(
                run,
                progress=output,
                metrics=output.metrics,
                warning_list=output.warnings,
                data=output.data,
                usage=output.usage,
                queue_position=wait.position if wait else None,
                estimated_start_at=wait.estimated_start_at if wait else None,
                steps=steps(session, run, run.steps),
            )

    return transient_retry.run_read(read)


def steps(session: Session, run: Run, rows: Sequence[Step]) -> list[SimpleNamespace]:
    """Steps of a run with their output."""
    outputs = summaries.summaries_of_steps(session, run) if run.started_at is not None else {}
    return [_step(step, outputs.get(step.key, _NO_OUTPUT)) for step in rows]


def _step(step: Step, output: summaries.StepOutput) -> SimpleNamespace:
    warnings = {"warning_list": output.warnings, "warnings": step.warnings}
    return _extended(step, **{**vars(output), **warnings})


def _extended(row: Any, **attributes: Any) -> SimpleNamespace:
    columns = {name: value for name, value in vars(row).items() if not name.startswith("_")}
    return SimpleNamespace(**{**columns, **attributes})
