"""The one task: claim a step, call its handler, record how it ended."""

import logging
import threading
import traceback
from datetime import timedelta
from typing import Any

from celery import Task
from celery.exceptions import Ignore, Retry
from sqlalchemy.exc import DBAPIError, TimeoutError

from config.logging import bind
from orchestrator import execution, expressions, outcomes
from orchestrator.broker import TASK
from orchestrator.errors import LeaseLost
from orchestrator.execution import Claim
from orchestrator.handlers import (
    FailStep,
    Handler,
    RetryStep,
    StepCancelled,
    StepContext,
    StepTimedOut,
)
from orchestrator.messages import parse_task_id
from orchestrator.outcomes import Failed, Interrupted, Outcome, Skipped, Succeeded
from orchestrator.states import StepState
from orchestrator.store import Found
from workers.app import app, claims, database, registry, settings
from workers.interrupts import interruptible

_LONGEST_TRACEBACK = 8_000  # characters; the last ones say most

_log = logging.getLogger(__name__)


class StepFailed(Exception):
    """Shows the step as failed in Flower; the row knows already."""


@app.task(bind=True, name=TASK, Request="workers.leases:StepRequest", throws=(StepFailed,))
def execute_step(self: Task) -> str:
    """Run one attempt of one step. A message that comes twice does nothing twice."""
    task_id, chain = str(self.request.id), self.request.chain
    self.request.chain = None  # the rest of the chain goes on only if the row says so
    claim = _claim(task_id, str(self.request.hostname))
    if claim is None:
        return "stale"
    with bind(run_id=str(claim.run_id), step=claim.key, attempt=claim.attempt):
        outcome = execute(claim, task_id)
        continues = chain[-1]["options"]["task_id"] if chain else None
        try:
            step, goes_on = database.persist(
                lambda session: execution.record(session, claim, outcome, continues),
                within=settings.lease,
            )
        except LeaseLost:
            _log.warning("late outcome refused", extra={"outcome": type(outcome).__name__})
            return "refused"
        if goes_on:
            self.request.chain = chain
        return _shown(step)


def execute(claim: Claim, task_id: str) -> Outcome:
    """Call the handler, and say in our words how it ended."""
    handler = registry.get(claim.uses)
    if handler is None:
        known = ", ".join(registry.names())
        message = f"this worker has no handler {claim.uses!r}; it has {known}"
        return Failed(message, ("UnknownHandler",), final=True)
    timeout = claim.spec.get("timeout")
    limit = None if timeout is None else timedelta(seconds=timeout)
    try:
        with interruptible(task_id, limit) as stop:
            return _call(handler, claim, stop)
    except StepTimedOut:
        return outcomes.timed_out(claim.spec)
    except StepCancelled as error:
        return Interrupted(str(error))
    except BaseException as error:  # whatever it is, the attempt has ended and is recorded
        return _failed(error)


def _claim(task_id: str, worker: str) -> Claim | None:
    parsed = parse_task_id(task_id)
    if parsed is None:
        return None
    try:
        with claims.transaction() as session:
            return execution.claim(
                session,
                *parsed,
                worker=worker,
                lease=settings.lease,
                grace=settings.cancel_grace,
            )
    except (DBAPIError, TimeoutError) as error:
        # The step stays queued; its message is sent again when Postgres is back.
        _log.warning("claim failed", extra={"task": task_id, "error": str(error)})
        return None


def _call(handler: Handler, claim: Claim, stop: threading.Event) -> Outcome:
    """Fill the templates and call the handler, if the step's condition holds."""
    names = _names(claim)
    when = claim.spec.get("when")
    if when is not None and not expressions.evaluate(when, names):
        return Skipped()
    context = StepContext(
        run_id=str(claim.run_id),
        workflow=claim.workflow,
        step=claim.key,
        attempt=claim.attempt,
        params=claim.params,
        args=expressions.resolve(claim.spec.get("with", {}), names),
        results=claim.results,
        idempotency_key=str(claim.step_id),
        cancelled=stop.is_set,
        log=logging.getLogger(handler.name),
    )
    return Succeeded(handler(context))


def _failed(error: BaseException) -> Failed:
    match error:
        case expressions.ExpressionError():
            return Failed(str(error), ("TemplateError",), final=True)
        case FailStep():
            return Failed(str(error), ("FailStep",), final=True)
        case RetryStep():
            return Failed(str(error), _kinds(error), after=error.after)
        case _:
            return Failed(_said(error), _kinds(error), traceback=_traceback(error))


def _names(claim: Claim) -> dict[str, Any]:
    """What templates may name."""
    return {
        "params": claim.params,
        "steps": {key: {"result": result} for key, result in claim.results.items()},
        "run": {
            "id": str(claim.run_id),
            "number": claim.run_number,
            "workflow": claim.workflow,
            "attempt": claim.attempt,
        },
    }


def _shown(step: Found) -> str:
    """End the task so that Flower shows what became of the step."""
    message = (step.error or {}).get("message", "")
    if step.state == StepState.FAILED:
        raise StepFailed(message)
    if step.state == StepState.WAITING:
        raise Retry(message)
    if step.state not in (StepState.SUCCEEDED, StepState.SKIPPED):
        raise Ignore
    return str(step.state)


def _said(error: BaseException) -> str:
    try:
        return f"{type(error).__name__}: {error}"
    except Exception:  # its own __str__ may be what is broken
        return type(error).__name__


def _kinds(error: BaseException) -> tuple[str, ...]:
    """The names of an exception's classes, short and with their module, nearest first."""
    classes = [each for each in type(error).__mro__ if each not in (object, BaseException)]
    return tuple(
        name for each in classes for name in (each.__name__, f"{each.__module__}.{each.__name__}")
    )


def _traceback(error: BaseException) -> str:
    """Where it happened, without our own frame that called the handler."""
    below = error.__traceback__.tb_next if error.__traceback__ else None
    return "".join(traceback.format_exception(type(error), error, below))[-_LONGEST_TRACEBACK:]
