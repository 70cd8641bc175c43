"""Process runs: what they are, how far they are, start, cancel, and restart from a step."""

from typing import Any

from marshmallow import fields, validate
from sqlalchemy.orm import Session

from api.context import caller, settings, tenant, transaction
from api.contracts.solvexia import schemas, shapes
from api.contracts.solvexia.ids import number_in
from api.contracts.solvexia.surface import blueprint, or_else
from orchestrator import catalog, events, reruns, runs, submission, summaries
from orchestrator.definitions import Role
from orchestrator.errors import NotFound
from orchestrator.models import Run, Step
from orchestrator.reruns import Mode, Rerun
from orchestrator.states import RunState

_START, _CANCEL = "ProcessRun_StartRq", "ProcessRun_CancelRq"
_WRONG = ("required", "null", "invalid")


class Command(schemas.Asked):
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
@blueprint.response(200, schemas.ProcessRunShown)
def show_run(run_id: str) -> dict[str, Any]:
    """Get a process run"""
    with transaction() as session:
        return shown(session, _run(session, run_id))


@blueprint.route("/processruns/<run_id>/runstatus")
@blueprint.response(200, schemas.RunStatusShown)
def show_status(run_id: str) -> dict[str, Any]:
    """Get the status of a process run"""
    with transaction() as session:
        return shapes.run_status(_run(session, run_id))


@blueprint.route("/processruns/<run_id>/start", methods=["POST"])
@blueprint.response(200, schemas.RunStatusShown)
def start(run_id: str) -> dict[str, Any]:
    """Start a process run that has not started"""
    return _start(run_id)


@blueprint.route("/processruns/<run_id>/cancel", methods=["POST"])
@blueprint.response(200, schemas.RunStatusShown)
def cancel(run_id: str) -> dict[str, Any]:
    """Cancel a process run

    What runs is told to stop; `dateFinished` is null until it has. Cancelling a run that is
    cancelled already changes nothing.
    """
    return _cancel(run_id)


@blueprint.route("/requests", methods=["POST"])
@blueprint.arguments(Command)
@blueprint.response(200, schemas.RunStatusShown)
def command(body: dict[str, Any]) -> dict[str, Any]:
    """Start or cancel a process run by command

    Deprecated: it does what the two addresses of the run do.
    """
    verb = _start if body["request"] == _START else _cancel
    return verb(body["run"].lower())


@blueprint.route("/processruns/<run_id>/steps")
@blueprint.response(200, schemas.DataStepShown(many=True))
def show_steps(run_id: str) -> list[dict[str, Any]]:
    """List the steps of a process run"""
    with transaction() as session:
        steps = runs.steps(session, _run(session, run_id))
    return [shapes.run_step(step, order) for order, step in enumerate(steps, start=1)]


@blueprint.route("/processruns/<run_id>/steps/<step_id>/runstatus")
@blueprint.response(200, schemas.StepStatusShown)
def show_step_status(run_id: str, step_id: str) -> dict[str, Any]:
    """Get the status of a step of a process run

    The id may be written `ds-` or `as-`, and is answered as it was asked.
    """
    with transaction() as session:
        run = _run(session, run_id)
        step = _step(session, run, step_id)
        said = summaries.of_steps(session, run)[step.key]
    return shapes.step_status(step_id, step, said)


@blueprint.route("/processruns/<run_id>/steps/<step_id>/restartfromhere", methods=["POST"])
@blueprint.response(200, schemas.StepStatusShown)
def restart(run_id: str, step_id: str) -> dict[str, Any]:
    """Run a step and everything after it again, in the same run"""
    caller().must_be(Role.OPERATOR)
    with transaction() as session:
        run = _run(session, run_id)
        step = _step(session, run, step_id)
        rerun = Rerun(mode=Mode.FROM_STEP, step=step.key, submitted_by=caller().submitter)
        with or_else(f"Process run pr-{run.number} has not ended; wait for it or cancel it first"):
            reruns.retry(session, tenant(), run.id, rerun, window=settings().window)
    return shapes.restarted(step_id)


def shown(session: Session, run: Run) -> dict[str, Any]:
    """A run as `ProcessRunShown` shows it."""
    workflow = catalog.of_runs(session, [run])[run.workflow_id]
    return shapes.process_run(run, workflow, events.changed_at(session, [run]).get(run.id))


def _start(run_id: str) -> dict[str, Any]:
    caller().must_be(Role.OPERATOR)
    with transaction() as session:
        run = _run(session, run_id)
        with or_else(f"Process run pr-{run.number} was started already, or has been cancelled"):
            run = submission.start(session, tenant(), run.id, window=settings().window)
        return shapes.run_status(run)


def _cancel(run_id: str) -> dict[str, Any]:
    caller().must_be(Role.OPERATOR)
    with transaction() as session:
        run = _run(session, run_id)
        if runs.locked(session, tenant(), run.id).state != RunState.CANCELLED:
            with or_else(f"Process run pr-{run.number} has already finished"):
                runs.cancel(session, tenant(), run.id, grace=settings().cancel_grace)
        return shapes.run_status(runs.get(session, tenant(), run.id))


def _run(session: Session, wire_id: str) -> Run:
    number = number_in(wire_id, "process run", "pr")
    with or_else(f"there is no process run {wire_id}", NotFound):
        return runs.get(session, tenant(), number)


def _step(session: Session, run: Run, wire_id: str) -> Step:
    number = number_in(wire_id, "step", "ds", "as")
    with or_else(f"process run pr-{run.number} has no step {wire_id}", NotFound):
        return runs.step(session, run, number)
