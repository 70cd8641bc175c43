"""The outcomes of an attempt, and how each changes its step. Pure rules."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any
from uuid import UUID

from orchestrator.db import Row
from orchestrator.json_values import (
    MAX_RESULT,
    MAX_RESULT_IN_ROW,
    clean_text,
    result_excess,
    result_mistake,
    result_text,
)
from orchestrator.models import AttemptOutcome
from orchestrator.spec.model import RetryPolicy
from orchestrator.states import RunState, SkipCause, StepTransition

MAX_ATTEMPTS = 32_767  # as the row can have; a step without a limit has more
MAX_LOSSES = 3  # lost workers after which a step is quarantined
_FIRST_WAIT, _MAX_WAIT = timedelta(seconds=0.5), timedelta(seconds=10)  # of a declined step


@dataclass(frozen=True)
class Succeeded:
    """The handler returned."""

    result: Any = None
    text: str | None = field(default=None, compare=False, repr=False)  # as JSON, once checked
    artifact: UUID | None = None  # where a result too large for a row was put


@dataclass(frozen=True)
class Failed:
    """The handler raised, or its result cannot be kept."""

    message: str
    kinds: Sequence[str] = ()  # names of the exception's classes, for the retry policy
    final: bool = False  # no further attempt can help
    after: timedelta | None = None  # delay of the next attempt, if the handler named one
    attempts: int = 1  # of a step without a retry policy
    traceback: str | None = None


@dataclass(frozen=True)
class Skipped:
    """The step's `when` was false."""


@dataclass(frozen=True)
class Interrupted:
    """The handler was stopped, or its worker is gone."""

    reason: str
    handed_back: bool = False  # by a draining worker: does not count as a loss


@dataclass(frozen=True)
class Declined:
    """Its worker has no such handler, and another worker of the queue has it."""

    reason: str


Outcome = Succeeded | Failed | Skipped | Interrupted | Declined


@dataclass(frozen=True)
class Change:
    """How an outcome changes the step, and the outcome recorded for the attempt."""

    transition: StepTransition
    outcome: AttemptOutcome
    error: dict[str, Any] | None = None
    result: str | None = None  # as JSON
    # More of the step: artifact, skip_cause, after (seconds until its next attempt), max_attempts;
    # losses and forgiven are added.
    more: Mapping[str, Any] = field(default_factory=dict)


def check_result(outcome: Outcome) -> Outcome:
    """The outcome with clean texts; a result that is not JSON becomes a failure."""
    match outcome:
        case Succeeded():
            return outcome if outcome.text is not None else _written(outcome)
        case Failed():
            traceback = None if outcome.traceback is None else clean_text(outcome.traceback)
            return replace(outcome, message=clean_text(outcome.message), traceback=traceback)
        case Interrupted() | Declined():
            return replace(outcome, reason=clean_text(outcome.reason))
        case Skipped():
            return outcome


def result_excess_of(outcome: Outcome) -> str | None:
    """The message that a checked outcome's result is too large for a row, or None."""
    if not isinstance(outcome, Succeeded) or outcome.text is None or outcome.artifact:
        return None
    return result_excess(outcome.text, MAX_RESULT_IN_ROW)


def keep_result(outcome: Outcome) -> Outcome:
    """The checked outcome; a result too large for a row becomes a failure."""
    outcome = check_result(outcome)
    mistake = result_excess_of(outcome)
    return Failed(mistake, ("InvalidResult",), final=True) if mistake else outcome


def succeeded(outcome: Succeeded) -> Change:
    """The change that success makes; it needs nothing from the step's row."""
    more = {} if outcome.artifact is None else {"artifact": str(outcome.artifact)}
    return Change(StepTransition.SUCCEED, AttemptOutcome.SUCCEEDED, result=outcome.text, more=more)


def change_for(run: Row, step: Row, outcome: Outcome) -> Change:
    """The change that an outcome makes of a running step; `step.overdue`: it timed out."""
    match outcome:
        case Succeeded():
            return succeeded(outcome)
        case Failed():
            return _failure(run, step, outcome)
        case Interrupted():
            return _interruption(run, step, outcome)
        case Declined():
            return _refusal(run, step, outcome)
        case Skipped():
            more = {"skip_cause": SkipCause.CONDITION}
            return Change(StepTransition.SKIP, AttemptOutcome.SKIPPED, more=more)


def timed_out_failure(timeout: float | None) -> Failed:
    """The failure of a step that ran longer than its timeout; None: its handler's, not its own."""
    seconds = "" if timeout is None else f" of {timeout:g} s"
    return Failed(f"the step ran longer than its timeout{seconds}", ("Timeout",))


def _written(outcome: Succeeded) -> Outcome:
    """The success with its result as JSON text, or a failure when it is not JSON or too large."""
    mistake = result_mistake(outcome.result)
    if mistake is None:
        text = result_text(outcome.result)
        mistake = text and result_excess(text, MAX_RESULT)
        if not mistake:
            return replace(outcome, text=text)
    return Failed(mistake, ("InvalidResult",), final=True)


def _failure(run: Row, step: Row, failed: Failed) -> Change:
    """A failure: final, or postponed until the next attempt, by the retry policy."""
    error = {"message": failed.message, "kind": failed.kinds[0] if failed.kinds else "Error"}
    if failed.traceback:
        error["traceback"] = failed.traceback
    failures = step.attempt - step.forgiven - step.losses
    document = step.spec.get("retry")
    policy = RetryPolicy.from_row(document or {"attempts": failed.attempts})
    again = failures < policy.attempts and policy.covers(failed.kinds) and not failed.final
    doomed = run.state == RunState.CANCELLING or (run.error is not None and not step.goes_on)
    if doomed or not again:
        return Change(StepTransition.FAIL, AttemptOutcome.FAILED, error)
    after = policy.wait(failures) if failed.after is None else failed.after
    more: dict[str, Any] = {"after": after.total_seconds()}
    if not document:
        more["max_attempts"] = min(policy.attempts, MAX_ATTEMPTS)
    return Change(StepTransition.POSTPONE, AttemptOutcome.FAILED, error, more=more)


def _refusal(run: Row, step: Row, declined: Declined) -> Change:
    """A step that its worker declined waits for another one: neither a retry nor a loss.

    The same worker may get it again, so each wait is longer, and another worker that is busy can
    take it within the longest one.
    """
    error = {"message": declined.reason, "kind": "UnknownHandler"}
    if run.state == RunState.CANCELLING:
        return Change(StepTransition.STOP, AttemptOutcome.CANCELLED, error)
    after = min(_FIRST_WAIT * 2 ** min(step.forgiven, 10), _MAX_WAIT)
    more = {"forgiven": 1, "after": after.total_seconds()}
    return Change(StepTransition.POSTPONE, AttemptOutcome.LOST, error, more=more)


def _interruption(run: Row, step: Row, interrupted: Interrupted) -> Change:
    """An interruption: the step is stopped, timed out, handed back, rescued or quarantined."""
    reason = interrupted.reason
    error = {"message": reason, "kind": "Interrupted"}
    if run.state == RunState.CANCELLING:
        return Change(StepTransition.STOP, AttemptOutcome.CANCELLED, error)
    if step.overdue:
        return _failure(run, step, timed_out_failure(step.spec.get("timeout")))
    if interrupted.handed_back:
        error["kind"] = "HandedBack"
        return Change(StepTransition.HAND_BACK, AttemptOutcome.LOST, error, more={"forgiven": 1})
    losses = step.losses + 1
    if losses >= MAX_LOSSES:
        error["message"] = f"quarantined: it lost {losses} workers, the last time because {reason}"
        error["kind"] = "Quarantined"
        return Change(StepTransition.FAIL, AttemptOutcome.LOST, error, more={"losses": 1})
    return Change(StepTransition.RESCUE, AttemptOutcome.LOST, error, more={"losses": 1})
