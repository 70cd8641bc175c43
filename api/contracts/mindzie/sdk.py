"""The addresses that only the published SDK calls: executions, which are jobs by its names."""

from typing import Any
from uuid import UUID

from marshmallow import EXCLUDE, fields
from sqlalchemy.orm import Session

from api.contracts.mindzie import jobs, requests, vocabulary
from api.contracts.mindzie.fields import Moment, ResponseSchema, Word
from api.contracts.mindzie.mapping import RUN_COLUMNS, JobView
from api.contracts.mindzie.surface import PROJECT, blueprint, get_job
from api.contracts.mindzie.vocabulary import EXECUTION_STATES
from api.toolkit.context import tenant, transaction
from api.toolkit.fields import IdempotencyHeaders
from api.toolkit.wire import camel, computed, described
from orchestrator import runs, workflows
from orchestrator.access import tenants
from orchestrator.outputs import summaries
from orchestrator.states import FINAL_RUNS, RunState

_EXECUTION = "<execution_id>"
_COLUMNS = (*RUN_COLUMNS, "project_id", "workflow_id", "error", "created_at")
_CANCEL = requests.CancelBody().load({})


def _milliseconds(seconds: float | None) -> int | None:
    return None if seconds is None else round(seconds * 1000)


class _Execution(ResponseSchema):
    """A response whose members begin with a capital letter."""

    def on_bind_field(self, field_name: str, field_obj: fields.Field[Any]) -> None:
        super().on_bind_field(field_name, field_obj)
        name = camel(field_name)
        field_obj.data_key = name[0].upper() + name[1:]

    execution_id = fields.UUID(attribute="run.id")
    status = computed(
        Word(EXECUTION_STATES.words), lambda execution: EXECUTION_STATES[execution.run.state]
    )
    start_time = Moment(allow_none=True, attribute="run.started_at")


class _OfResource(_Execution):
    project_id = fields.UUID(attribute="run.project_id")
    resource_type = computed(
        fields.String,
        lambda execution: vocabulary.resource_type_of(execution.run.annotations),
    )
    resource_id = fields.UUID(attribute="run.workflow_id")
    resource_name = fields.String()


class QueueItem(_OfResource):
    """An execution that was queued."""

    priority = described(fields.Integer, "0 to 9; higher goes first", attribute="run.priority")
    queued_time = Moment(attribute="run.created_at")
    estimated_duration_ms = computed(
        fields.Integer,
        lambda execution: _milliseconds(execution.typical_seconds),
        allow_none=True,
    )


class ExecutionStatus(_Execution):
    """How far an execution is."""

    progress_percentage = described(fields.Integer, "0 to 100", attribute="output.percent")
    current_step = described(fields.String, "the stage", attribute="current_stage")
    estimated_completion = Moment(allow_none=True)
    messages = computed(
        fields.List(fields.String()),
        lambda execution: (
            [execution.error_message]
            if execution.has_failed
            else [text for text in [execution.output.message] if text]
        ),
        "why it failed, or what its step said last",
    )


class PastExecution(_OfResource):
    """An execution that has ended; it began when it was submitted, if no step of it did."""

    start_time = computed(
        Moment(), lambda execution: execution.run.started_at or execution.run.created_at
    )
    end_time = Moment(attribute="run.finished_at")
    duration_ms = computed(fields.Integer, lambda execution: _milliseconds(execution.seconds))
    error_message = computed(
        fields.String,
        lambda execution: execution.error_message if execution.has_failed else None,
        allow_none=True,
    )
    created_by = computed(
        fields.String, lambda execution: execution.run.submitted_by or vocabulary.SYSTEM
    )


class History(ResponseSchema):
    """One page of executions, the newest first."""

    executions = fields.List(fields.Nested(PastExecution), data_key="Executions")
    total_count = described(fields.Integer, "on all pages", data_key="TotalCount")
    page = fields.Integer(data_key="Page")
    page_size = fields.Integer(data_key="PageSize")


@blueprint.route(f"{PROJECT}/queue/notebook/<notebook_id>", methods=["POST"])
@blueprint.arguments(IdempotencyHeaders, location="headers", unknown=EXCLUDE)
@blueprint.response(200, QueueItem)
def queue_notebook(headers: dict[str, Any], project_id: UUID, notebook_id: UUID) -> JobView:
    """Run the workflow with this id, as a job of the type Notebook"""
    return _start(project_id, requests.queued_as("Notebook", "Notebook", notebook_id), headers)


@blueprint.route(f"{PROJECT}/queue/investigation/<investigation_id>", methods=["POST"])
@blueprint.arguments(IdempotencyHeaders, location="headers", unknown=EXCLUDE)
@blueprint.response(200, QueueItem)
def queue_investigation(
    headers: dict[str, Any], project_id: UUID, investigation_id: UUID
) -> JobView:
    """Run the workflow with this id, as a job of the type Analysis"""
    body = requests.queued_as("Analysis", "Investigation", investigation_id)
    return _start(project_id, body, headers)


@blueprint.route(f"{PROJECT}/queue/{_EXECUTION}", methods=["DELETE"])
@blueprint.response(200, ExecutionStatus)
def cancel_execution(project_id: UUID, execution_id: UUID) -> JobView:
    """Cancel an execution that waits or runs"""
    with transaction() as session:
        jobs.cancel_job(session, project_id, execution_id, _CANCEL)
        return _view(session, project_id, execution_id)


@blueprint.route(f"{PROJECT}/status/{_EXECUTION}")
@blueprint.response(200, ExecutionStatus)
def show_execution(project_id: UUID, execution_id: UUID) -> JobView:
    """Get the status of an execution"""
    with transaction(snapshot=True) as session:
        return _view(session, project_id, execution_id)


@blueprint.route(f"{PROJECT}/history")
@blueprint.arguments(requests.HistoryQuery, location="query")
@blueprint.response(200, History)
def list_history(query: dict[str, Any], project_id: UUID) -> dict[str, Any]:
    """List the executions that have ended, the newest first"""
    number, size = query["page"], min(query["page_size"], requests.MAX_PAGE)
    ended = [state for state in RunState if state in FINAL_RUNS]
    filters = runs.RunFilter(project_id=project_id, state=ended)
    order, start = runs.RunSort(), (number - 1) * size
    with transaction() as session:
        tenants.get_project(session, tenant(), project_id)
        rows = runs.page(session, tenant(), filters, order, size, offset=start, only=_COLUMNS)
        total = runs.count(session, tenant(), filters)
        titles = workflows.titles_of_runs(session, rows)
    executions = [JobView(run=row, title=titles.get(row.version_id)) for row in rows]
    return {"executions": executions, "total_count": total, "page": number, "page_size": size}


def _start(project_id: UUID, body: dict[str, Any], headers: dict[str, Any]) -> JobView:
    with transaction() as session:
        return jobs.start_job(session, project_id, body, headers)


def _view(session: Session, project_id: UUID, execution_id: UUID) -> JobView:
    run = get_job(session, project_id, execution_id)
    return JobView(run=run, output=summaries.summaries_of_runs(session, [run])[run.id])
