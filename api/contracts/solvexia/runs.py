"""Process runs: what they are, how far they are, start, cancel, and restart from a step."""

from typing import Any

from marshmallow import fields, validate
from sqlalchemy.orm import Session

from api.contracts.solvexia import mapping, responses
from api.contracts.solvexia.ids import number_in
from api.contracts.solvexia.surface import blueprint, or_else
from api.toolkit.context import caller, settings, tenant, transaction
from orchestrator import runs, workflows
from orchestrator.errors import NotFound
from orchestrator.models import Role, Run, Step
from orchestrator.outputs import summaries
from orchestrator.runs import RetryMode, RetryRequest
from orchestrator.states import RunState

_START, _CANCEL = "ProcessRun_StartRq", "ProcessRun_CancelRq"
_WRONG = ("required", "null", "invalid")


class Command(responses.Asked):
    """What is to be done with which run."""

    request = fields.String(
        required=True,
        validate=validate.OneOf([_START, _CANCEL]),
        error_messages=dict.fromkeys(_WRONG, f"send {_START} or {_CANCEL}"),
    )
    run = fields.String(
        required=True,
        data_key="processRunId",
        error_messages=dict.fromkeys(_WRONG, "send the id of a process run, like pr-123"),
    )


@blueprint.route("/processruns/<run_id>")
@blueprint.response(200, responses.ProcessRunShown)
def show_run(run_id: str) -> dict[str, Any]:
    """Get a process run"""
    with transaction() as session:
        return shown(session, _run(session, run_id))


@blueprint.route("/processruns/<run_id>/runstatus")
@blueprint.response(200, responses.RunStatusShown)
def show_status(run_id: str) -> dict[str, Any]:
    """Get the status of a process run"""
    with transaction() as session:
        return mapping.run_status(_run(session, run_id))


@blueprint.route("/processruns/<run_id>/start", methods=["POST"])
@blueprint.response(200, responses.RunStatusShown)
def start(run_id: str) -> dict[str, Any]:
    """Start a process run that has not started"""
    return _start(run_id)


@blueprint.route("/processruns/<run_id>/cancel", methods=["POST"])
@blueprint.response(200, responses.RunStatusShown)
def cancel(run_id: str) -> dict[str, Any]:
    """Cancel a process run

    What runs is told to stop; `dateFinished` is null until it has. Cancelling a run that is
    cancelled already changes nothing.
    """
    return _cancel(run_id)


@blueprint.route("/requests", methods=["POST"])
@blueprint.arguments(Command)
@blueprint.response(200, responses.RunStatusShown)
def command(body: dict[str, Any]) -> dict[str, Any]:
    """Start or cancel a process run by command

    Deprecated: it does what the two addresses of the run do.
    """
    verb = _start if body["request"] == _START else _cancel
    return verb(body["run"].lower())


@blueprint.route("/processruns/<run_id>/steps")
@blueprint.response(200, responses.DataStepShown(many=True))
def show_steps(run_id: str) -> list[dict[str, Any]]:
    """List the steps of a process run"""
    with transaction() as session:
        steps = runs.steps(session, _run(session, run_id))
    return [mapping.run_step(step, order) for order, step in enumerate(steps, start=1)]


@blueprint.route("/processruns/<run_id>/steps/<step_id>/runstatus")
@blueprint.response(200, responses.StepStatusShown)
def show_step_status(run_id: str, step_id: str) -> dict[str, Any]:
    """Get the status of a step of a process run

    The id may be written `ds-` or `as-`, and is answered as it was asked.
    """
    with transaction() as session:
        run = _run(session, run_id)
        step = _step(session, run, step_id)
        said = summaries.summaries_of_steps(session, run)[step.key]
    return mapping.step_status(step_id, step, said)


@blueprint.route("/processruns/<run_id>/steps/<step_id>/restartfromhere", methods=["POST"])
@blueprint.response(200, responses.StepStatusShown)
def restart(run_id: str, step_id: str) -> dict[str, Any]:
    """Run a step and everything after it again, in the same run"""
    caller().must_be(Role.OPERATOR)
    with transaction() as session:
        run = _run(session, run_id)
        step = _step(session, run, step_id)
        rerun = RetryRequest(
            mode=RetryMode.FROM_STEP, step=step.key, submitted_by=caller().submitter
        )
        with or_else(f"Process run pr-{run.number} has not ended; wait for it or cancel it first"):
            runs.retry(session, tenant(), run.id, rerun, window=settings().window)
    return mapping.restarted(step_id)


def shown(session: Session, run: Run) -> dict[str, Any]:
    """A run as `ProcessRunShown` shows it."""
    workflow = workflows.of_runs(session, [run])[run.workflow_id]
    return mapping.process_run(run, workflow, runs.changed_at(session, [run]).get(run.id))


def _start(run_id: str) -> dict[str, Any]:
    caller().must_be(Role.OPERATOR)
    with transaction() as session:
        run = _run(session, run_id)
        with or_else(f"Process run pr-{run.number} was started already, or has been cancelled"):
            run = runs.start_held_run(session, tenant(), run.id, window=settings().window)
        return mapping.run_status(run)


def _cancel(run_id: str) -> dict[str, Any]:
    caller().must_be(Role.OPERATOR)
    with transaction() as session:
        run = _run(session, run_id)
        if runs.lock(session, tenant(), run.id).state != RunState.CANCELLED:
            with or_else(f"Process run pr-{run.number} has already finished"):
                runs.cancel(session, tenant(), run.id, grace=settings().cancel_grace)
        return mapping.run_status(runs.get(session, tenant(), run.id))


def _run(session: Session, wire_id: str) -> Run:
    number = number_in(wire_id, "process run", "pr")
    with or_else(f"there is no process run {wire_id}", NotFound):
        return runs.get(session, tenant(), number)


def _step(session: Session, run: Run, wire_id: str) -> Step:
    number = number_in(wire_id, "step", "ds", "as")
    with or_else(f"process run pr-{run.number} has no step {wire_id}", NotFound):
        return runs.step(session, run, number)
