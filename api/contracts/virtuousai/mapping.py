"""Views that responses are read from: runs, steps and automations with related rows."""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple, Self
from uuid import UUID, uuid5

from sqlalchemy.orm import Session

from api.contracts.virtuousai.vocabulary import SOURCES
from api.toolkit.context import caller
from orchestrator import runs, workflows
from orchestrator.access.permissions import Verb
from orchestrator.models import Event, Run, Step, Trigger, Version, Workflow
from orchestrator.states import RunState

ANNOTATION = "virtuousai"  # of a workflow: the members that only this API has
MAX_RESULT = 64 * 1024  # bytes of a step's result as JSON
# The columns that a response reads; other columns are not loaded for a list.
RUN_COLUMNS = (
    "id", "tenant_id", "workflow_id", "version_id", "version", "state", "trigger", "source_type",
    "source_id", "schedule_id", "concurrency_key", "error", "event_seq", "created_at",
    "started_at", "finished_at",
)  # fmt: skip
# The type of a run's error, and the message of one that has none.
_FAILURES = {
    RunState.TIMED_OUT: ("timeout", "The run took too long"),
    RunState.FAILED: ("step_failed", "A step failed"),
}


class RunView(NamedTuple):
    """A run with related rows."""

    run: Run
    workflow: Workflow
    external_job_id: str | None
    updated_at: datetime
    trigger_source_type: str | None
    trigger_source_id: str | None

    @property
    def error(self) -> dict[str, Any] | None:
        """Why the run failed; None in every other state."""
        if self.run.state not in _FAILURES:
            return None
        kind, message = _FAILURES[self.run.state]
        error = self.run.error or {}
        step = error.get("step") if self.run.state == RunState.FAILED else None
        return {"type": kind, "message": error.get("message") or message, "step_key": step}


class StepView(NamedTuple):
    """A step with its result, truncated to MAX_RESULT."""

    step: Step
    result: dict[str, Any] | None
    result_truncated: bool

    @classmethod
    def of(cls, step: Step) -> Self:
        """A result that is not an object becomes `{"value": result}`."""
        if step.result is None or step.result_artifact is not None:
            return cls(step, None, result_truncated=step.result_artifact is not None)
        members = step.result if isinstance(step.result, dict) else {"value": step.result}
        first = _first_members(members)
        return cls(step, first, result_truncated=len(first) < len(members))

    @property
    def action_run_id(self) -> UUID | None:
        """An id that stays the same while the attempt is the latest."""
        return uuid5(self.step.id, str(self.step.attempt)) if self.step.attempt else None

    @property
    def error(self) -> dict[str, Any] | None:
        """Why the latest attempt failed."""
        if not (error := self.step.error):
            return None
        kind, message = error.get("kind", "Error"), error.get("message", "")
        return {"type": kind, "message": message, "step_key": self.step.key}


class AutomationView(NamedTuple):
    """A workflow with related rows."""

    workflow: Workflow
    version: Version
    latest_run: Run | None  # None also for a caller who may not read runs

    @property
    def config(self) -> dict[str, Any]:
        """The spec without the members that an automation has beside its config."""
        has_description = annotation(self.workflow).get("description") is not None
        beside = ("name", "description") if has_description else ("name",)
        return {name: value for name, value in self.version.spec.items() if name not in beside}


def run_views(session: Session, rows: Sequence[Run]) -> list[RunView]:
    """The views of runs, in a fixed number of queries."""
    created = {row.id: row.created_at for row in rows}
    changed = {**created, **runs.changed_at(session, rows)}
    tasks = runs.first_task_ids(session, rows)
    of_runs = workflows.of_runs(session, rows)
    return [
        RunView(row, of_runs[row.workflow_id], tasks.get(row.id), changed[row.id], *_source(row))
        for row in rows
    ]


def automation_views(session: Session, rows: Sequence[Workflow]) -> list[AutomationView]:
    """The views of workflows, in a fixed number of queries."""
    versions = workflows.latest_versions(session, rows)
    latest = workflows.latest_runs(session, rows) if caller().may("runs", Verb.READ) else {}
    return [AutomationView(row, versions[row.id], latest.get(row.id)) for row in rows]


def annotation(workflow: Workflow) -> Mapping[str, Any]:
    """The members that only this API has."""
    members: Mapping[str, Any] = workflow.annotations.get(ANNOTATION) or {}
    return members


def name_of(workflow: Workflow) -> str:
    """The name as submitted here, else the workflow's own."""
    return str(annotation(workflow).get("name", workflow.name))


def seconds_of(row: Run | Step) -> float | None:
    """How long a run or step took; None until it has ended."""
    if row.started_at is None or row.finished_at is None:
        return None
    return round((row.finished_at - row.started_at).total_seconds(), 6)


def payload_of(event: Event) -> dict[str, Any]:
    """The data of an event, of a step's with its key and attempt."""
    of_step = {"stepKey": event.step, "attempt": event.attempt} if event.step is not None else {}
    return {**of_step, **event.data}


def _source(run: Run) -> tuple[str | None, str | None]:
    """The type and the id of what started the run."""
    if run.source_type == "backfill":  # of a schedule
        return "schedule", None if run.schedule_id is None else str(run.schedule_id)
    if run.source_type == "schedule":
        return ("webhook" if run.trigger == Trigger.API else "schedule"), run.source_id
    word = SOURCES.get(run.source_type or "")
    return word, run.source_id if word else None


def _first_members(members: Mapping[str, Any]) -> dict[str, Any]:
    """The first members whose JSON fits into MAX_RESULT."""
    first, size = dict[str, Any](), len("{}")
    for name, value in members.items():
        member = json.dumps({name: value}, ensure_ascii=False, separators=(",", ":"))
        size += len(member.encode()) - len("{}") + (1 if first else 0)
        if size > MAX_RESULT:
            break
        first[name] = value
    return first
