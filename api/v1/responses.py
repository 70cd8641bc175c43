"""What several modules of the native API answer: schemas, and the views of a run that they dump."""

from collections.abc import Sequence
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any
from uuid import UUID

from marshmallow import fields
from sqlalchemy.orm import Session

from api.toolkit import hidden_params, transient_retry
from api.toolkit.context import services, shown_worker
from api.toolkit.fields import Timestamp
from api.toolkit.wire import WireSchema, columns, computed, enumeration
from orchestrator import runs
from orchestrator.models import Attempt, Event, Run, Step, Trigger, Version, Workflow
from orchestrator.outputs import summaries
from orchestrator.states import RunState, StepState
from orchestrator.work_limits import in_turns


def _seconds(row: Any) -> float | None:
    """Seconds from `started_at` to `finished_at`, or until now."""
    if row.started_at is None:
        return None
    seconds: float = ((row.finished_at or datetime.now(UTC)) - row.started_at).total_seconds()
    return round(seconds, 6)


_DURATION = computed(fields.Float, _seconds, allow_none=True)
_WARNINGS = fields.List(
    fields.Dict(), attribute="warning_list", metadata={"description": "type, message and count"}
)


class StepSchema(WireSchema):
    """One step of a run, with the output and resource usage of its last attempt."""

    class Meta:
        include = columns(
            Step,
            "id number key name uses needs state skip_cause attempt max_attempts queue priority "
            "allow_failure worker result result_artifact warning_count error wake_at queued_at "
            "started_at finished_at duration_seconds percent stage message metrics warnings usage",
            worker=computed(fields.String, lambda step: shown_worker(step.worker), allow_none=True),
            result=fields.Raw(allow_none=True),
            result_artifact="where a result too large for here is whole",
            warning_count=fields.Integer(attribute="warnings"),
            duration_seconds=_DURATION,
            percent=fields.Integer(allow_none=True),
            stage=fields.String(allow_none=True),
            message=fields.String(allow_none=True),
            metrics=fields.Dict(),
            warnings=_WARNINGS,
            usage=fields.Dict(allow_none=True),
        )


class AttemptSchema(WireSchema):
    """One attempt of a step."""

    class Meta:
        include = columns(
            Attempt,
            "number worker outcome error usage started_at finished_at duration_seconds",
            worker=computed(fields.String, lambda attempt: shown_worker(attempt.worker)),
            usage="seconds and bytes it took",
            duration_seconds=_DURATION,
        )


class EventSchema(WireSchema):
    """One event of a run."""

    class Meta:
        include = columns(Event, "seq type step attempt data occurred_at")


class RunSummarySchema(WireSchema):
    """One run of a list."""

    class Meta:
        include = columns(
            Run,
            "id number workflow version state priority queue params tags project_id environment "
            "name description annotations trigger source_type source_id reason submitted_by "
            "run_as variables event_variables schedule_id backfill_id logical_date "
            "concurrency_key notifications held late_at passed_sla warning_count error run_at "
            "timeout cancel_requested_at cancel_reason retry_of created_at queued_at started_at "
            "finished_at duration_seconds",
            trigger=enumeration(Trigger),
            warning_count=fields.Integer(attribute="warnings"),
            duration_seconds=_DURATION,
            params=hidden_params.run_field("params"),
            variables=hidden_params.run_field("variables", allow_none=True),
            event_variables=hidden_params.run_field("event_variables", allow_none=True),
        )


class ProgressSchema(WireSchema):
    """Progress of a run; percent is 100 only once it has succeeded."""

    percent = fields.Integer()
    stage = fields.String(allow_none=True)
    message = fields.String(allow_none=True)
    eta = Timestamp(allow_none=True)


class RunSchema(RunSummarySchema):
    """One run with its steps, their output and resource usage."""

    progress = fields.Nested(ProgressSchema)
    metrics = fields.Dict()
    warnings = _WARNINGS
    data = fields.Dict(metadata={"description": "ids that were written, by kind and date"})
    usage = fields.Dict(metadata={"description": "seconds and bytes that all attempts took"})
    queue_position = fields.Integer(allow_none=True)
    estimated_start_at = Timestamp(allow_none=True)
    steps = fields.List(fields.Nested(StepSchema))


class WorkflowSummarySchema(WireSchema):
    """One workflow of a list."""

    class Meta:
        include = columns(
            Workflow, "id number name project_id service description version created_at updated_at"
        )


class WorkflowSchema(WorkflowSummarySchema):
    """One workflow with the spec of its version."""

    spec = fields.Dict()


class VersionSchema(WireSchema):
    """One version of a workflow."""

    class Meta:
        include = columns(
            Version, "id version spec created_at", version=fields.Integer(attribute="number")
        )


class CauseSubjectSchema(fields.Dict):
    """Subjects of a cause by name; times as in `Timestamp`."""

    def _serialize(self, value: Any, *_: Any, **__: Any) -> dict[str, Any]:
        return {
            name: Timestamp()._serialize(each) if isinstance(each, datetime) else each
            for name, each in value.items()
        }


class CauseSchema(WireSchema):
    """Why a run or step does not proceed, or that it does."""

    code = enumeration(runs.CauseCode)
    text = fields.String()
    about = CauseSubjectSchema(metadata={"description": "who or what it is about, by name"})


class StepCauseSchema(WireSchema):
    """A step and its cause."""

    key = fields.String()
    state = enumeration(StepState)
    cause = fields.Nested(CauseSchema)


class ExplanationSchema(WireSchema):
    """A run, its cause, and the causes of its steps."""

    run_id = fields.UUID()
    state = enumeration(RunState)
    cause = fields.Nested(CauseSchema)
    steps = fields.List(fields.Nested(StepCauseSchema))


_NO_OUTPUT = summaries.StepOutput()


def current_run(tenant_id: UUID, run_id: UUID) -> SimpleNamespace:
    """The run as it is now, in a transaction of its own that is repeated after transient errors.

    A response is read so after its change has committed. Raises NotFound.
    """

    def read() -> SimpleNamespace:
        with services().database.transaction(tenant_id) as session:
            return run_view(runs.view(session, tenant_id, run_id))

    return transient_retry.run_read(read)


def run_view(view: runs.RunView) -> SimpleNamespace:
    """The run as a `RunSchema` dumps it."""
    output, wait = view.output, view.wait
    return SimpleNamespace(
        **view.run,
        progress=output,
        metrics=output.metrics,
        warning_list=output.warnings,
        data=output.data,
        usage=output.usage,
        queue_position=wait.position if wait else None,
        estimated_start_at=wait.estimated_start_at if wait else None,
        steps=view.steps,
    )


def step_views(session: Session, run: Run, rows: Sequence[Step]) -> list[SimpleNamespace]:
    """Steps of a run with their output."""
    outputs = summaries.summaries_of_steps(session, run) if run.started_at is not None else {}
    return [_step(step, outputs.get(step.key, _NO_OUTPUT)) for step in in_turns(rows)]


def _step(step: Step, output: summaries.StepOutput) -> SimpleNamespace:
    warnings = {"warning_list": output.warnings, "warnings": step.warnings}
    return _extended(step, **{**vars(output), **warnings})


def _extended(row: Any, **attributes: Any) -> SimpleNamespace:
    columns = {name: value for name, value in vars(row).items() if not name.startswith("_")}
    return SimpleNamespace(**{**columns, **attributes})
