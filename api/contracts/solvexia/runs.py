"""Process runs: show, start, cancel, and restart from a step."""

from typing import Any

from flask import Response
from sqlalchemy.orm import Session

from api.contracts.solvexia import mapping, requests, responses
from api.contracts.solvexia.mapping import DataStepView, RunView, StatusView, parse_id
from api.contracts.solvexia.surface import blueprint
from api.toolkit.context import caller, settings, tenant, transaction
from api.toolkit.wire import reworded
from orchestrator import runs, workflows
from orchestrator.errors import InvalidTransition, NotFound
from orchestrator.models import Run, Step
from orchestrator.outputs import summaries
from orchestrator.runs import RetryMode, RetryRequest
from orchestrator.states import RunState, StepState


@blueprint.route("/processruns/<run_id>")
@blueprint.response(200, responses.ProcessRun)
def show_run(run_id: str) -> RunView:
    """Get a process run"""
    with transaction() as session:
        return run_view(session, _run(session, run_id))


@blueprint.route("/processruns/<run_id>/runstatus")
@blueprint.response(200, responses.RunStatus)
def show_status(run_id: str) -> StatusView:
    """Get the status of a process run"""
    with transaction() as session:
        return _status(session, _run(session, run_id))


@blueprint.route("/processruns/<run_id>/start", methods=["POST"])
@blueprint.response(200, responses.RunStatus)
def start(run_id: str) -> StatusView:
    """Start a process run that has not started"""
    with transaction() as session:
        run = _run(session, run_id)
        refusal = f"Process run pr-{run.number} was started already, or has been cancelled"
        with reworded(refusal, InvalidTransition):
            run = runs.start_held_run(session, tenant(), run.id, window=settings().window)
        return _status(session, run)


@blueprint.route("/processruns/<run_id>/cancel", methods=["POST"])
@blueprint.response(200, responses.RunStatus)
def cancel(run_id: str) -> StatusView:
    """Cancel a process run

    What runs is told to stop; `dateFinished` is null until it has. Cancelling a run that is
    cancelled already changes nothing.
    """
    with transaction() as session:
        run = _run(session, run_id)
        if runs.lock(session, tenant(), run.id).state != RunState.CANCELLED:
            refusal = f"Process run pr-{run.number} has already finished"
            with reworded(refusal, InvalidTransition):
                runs.cancel(session, tenant(), run.id, grace=settings().cancel_grace)
        return _status(session, runs.get(session, tenant(), run.id))


@blueprint.route("/requests", methods=["POST"])
@blueprint.arguments(requests.Command)
@blueprint.response(200, responses.RunStatus)
def command(body: dict[str, Any]) -> Response:
    """Start or cancel a process run by command

    Deprecated: it does what the two addresses of the run do.
    """
    view = start if body["request"] == requests.START else cancel
    answer: Response = view(body["run"].lower())
    return answer


@blueprint.route("/processruns/<run_id>/steps")
@blueprint.response(200, responses.DataStep(many=True))
def show_steps(run_id: str) -> list[DataStepView]:
    """List the steps of a process run"""
    with transaction() as session:
        steps = runs.steps(session, _run(session, run_id))
    return [mapping.run_step(step, place) for place, step in enumerate(steps)]


@blueprint.route("/processruns/<run_id>/steps/<step_id>/runstatus")
@blueprint.response(200, responses.StepStatus)
def show_step_status(run_id: str, step_id: str) -> StatusView:
    """Get the status of a step of a process run

    The id may be written `ds-` or `as-`, and is answered as it was asked.
    """
    with transaction() as session:
        run = _run(session, run_id)
        step = _step(session, run, step_id)
        since = runs.restarted_at(session, run)
        if since and not runs.begins(session, run, step):
            since = None
        view = StatusView(step_id, step, since=since)
        if view.restarts:  # its output is that of the attempt before
            return view
        return view._replace(output=summaries.summaries_of_steps(session, run)[step.key])


@blueprint.route("/processruns/<run_id>/steps/<step_id>/restartfromhere", methods=["POST"])
@blueprint.response(200, responses.StepStatus)
def restart(run_id: str, step_id: str) -> StatusView:
    """Run a step and everything after it again, in the same run

    From then on the step and the run are `Running`, also while they wait for a worker. The step's
    `dateStarted` is that of the restart, the run's that of its first start.
    """
    who = caller()
    with transaction() as session:
        run = _run(session, run_id)
        step = _step(session, run, step_id)
        rerun = RetryRequest(mode=RetryMode.FROM_STEP, step=step.key, submitted_by=who.submitter)
        refusal = f"Process run pr-{run.number} has not ended; wait for it or cancel it first"
        with reworded(refusal, InvalidTransition):
            run = runs.retry(session, tenant(), run.id, rerun, window=settings().window)
        return StatusView(step_id, Step(state=StepState.RUNNING), since=run.run_at)


def run_view(session: Session, run: Run) -> RunView:
    """The view of a run."""
    workflow = workflows.of_runs(session, [run])[run.workflow_id]
    changed_at = runs.changed_at(session, [run]).get(run.id, run.created_at)
    return RunView(run, f"p-{workflow.number}", changed_at)


def _status(session: Session, run: Run) -> StatusView:
    since = runs.restarted_at(session, run)
    if since is not None:
        since = runs.first_start(session, run) or since
    return StatusView(f"pr-{run.number}", run, since=since)


def _run(session: Session, wire_id: str) -> Run:
    number = parse_id(wire_id, "process run", "pr")
    with reworded(f"there is no process run {wire_id}", NotFound):
        return runs.get(session, tenant(), number)


def _step(session: Session, run: Run, wire_id: str) -> Step:
    number = parse_id(wire_id, "step", "ds", "as")
    with reworded(f"process run pr-{run.number} has no step {wire_id}", NotFound):
        return runs.step(session, run, number)
