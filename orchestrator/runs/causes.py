"""Rules: the cause by which a run, and each of its steps, is in its state."""

import enum
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple
from uuid import UUID

from orchestrator.db import Row
from orchestrator.engine.outcomes import MAX_ATTEMPTS
from orchestrator.models import Run, Step
from orchestrator.monitoring.backlog import QueuePlace
from orchestrator.monitoring.workers import Alias
from orchestrator.states import FINAL_RUNS, OPEN_STEPS, RunState, StepState, satisfies


class CauseCode(enum.StrEnum):
    """Why a run or step does not go on, or that it does."""

    ENDED = "ended"
    RUNNING = "running"
    CANCELLING = "cancelling"  # until its steps end or are killed
    HELD = "held"  # until it is started
    START_TIME = "start_time"
    CONCURRENCY_KEY = "concurrency_key"  # another run holds it
    RANK = "rank"  # others of the queue go first
    WINDOW = "window"  # it is full: as many steps as allowed wait in the broker
    SCHEDULER = "scheduler"  # until its next pass
    NO_WORKER = "no_worker"  # no active one listens to the queue
    RUN = "run"  # the step's run has not begun
    NEEDS = "needs"  # other steps go first
    RETRY = "retry"  # until the next attempt is due
    UNPUBLISHED = "unpublished"  # it may start when the window has room
    IN_BROKER = "in_broker"  # the next free worker takes it
    BROKER = "broker"  # it does not answer
    UNKNOWN = "unknown"  # an invariant is violated


@dataclass(frozen=True)
class Cause:
    """A code for programs, a sentence for people, and the data that the sentence is made of."""

    code: CauseCode
    text: str
    about: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class StepCause:
    """A step, and its cause."""

    key: str
    state: StepState
    cause: Cause


@dataclass(frozen=True, kw_only=True)
class Explanation:
    """A run, its cause, and those of its steps."""

    run_id: UUID
    state: RunState
    cause: Cause
    steps: Sequence[StepCause]


class Listeners(NamedTuple):
    """The workers of a queue."""

    active: int  # how many
    draining: Sequence[str]  # names
    start_error: str | None  # why one did not start


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What the rules need beside the rows of the run and its steps."""

    now: Any
    workers: Mapping[str, Listeners]  # by queue
    begins_in: frozenset[str]  # the queues of the first steps of a pending run
    attempts: Mapping[UUID, Row]  # running ones, by step id
    alias: Alias  # of their workers
    broker_answers: bool = True
    unclaimed: int = 0  # steps of the tenant that wait in the broker, in the run's queue
    holder: Row | None = None  # of its concurrency key
    place: QueuePlace | None = None
    may_start: bool = False  # the window has room, and no other run ranks before it
    window: int


_MAX_NAMES = 10  # steps, or workers, that a sentence names


def explain_run(run: Run, steps: Sequence[StepCause], facts: Facts) -> Cause:
    """Why a run does not go on; `steps` are its steps with their causes."""
    running = [step.key for step in steps if step.state == StepState.RUNNING]
    if run.state in FINAL_RUNS:
        return _ended(run)
    if run.state == RunState.PENDING:
        return _pending(run, facts)
    if run.state == RunState.CANCELLING:
        about = {"steps": running, "until": run.stop_by, "reason": run.cancel_reason}
        text = f"it is being stopped; {_some(running)} may go on until {_time(run.stop_by)}"
        return Cause(CauseCode.CANCELLING, text, about) if running else _unknown(run.state)
    if run.state == RunState.RUNNING and running:
        return Cause(CauseCode.RUNNING, f"{_some(running)} runs", {"steps": running})
    waits = [step for step in steps if step.state in (StepState.QUEUED, StepState.WAITING)]
    if not waits:
        return _unknown(run.state)
    key, cause = waits[0].key, waits[0].cause
    return Cause(cause.code, f"step {key}: {cause.text}", {"step": key, **cause.about})


def explain_step(run: Run, step: Step, steps: Mapping[str, Step], facts: Facts) -> Cause:
    """Why a step does not go on; `steps` are all of its run, by key."""
    if step.state not in OPEN_STEPS:
        return _ended(step)
    match step.state:
        case StepState.PENDING if run.state not in FINAL_RUNS | {RunState.CANCELLING}:
            return _needs(run, step, steps)
        case StepState.RUNNING if run.state in (RunState.RUNNING, RunState.CANCELLING):
            return _running(run, step, facts)
        case StepState.WAITING if run.state == RunState.RUNNING and step.wake_at:
            return _retry(step, facts)
        case StepState.QUEUED if run.state in (RunState.QUEUED, RunState.RUNNING):
            return _queued(step, facts)
    return _unknown(step.state)


def _ended(row: Run | Step) -> Cause:
    """How a run or a step has ended."""
    about = {"at": row.finished_at, "error": row.error}
    return Cause(CauseCode.ENDED, f"it has ended as {row.state.replace('_', ' ')}", about)


def _pending(run: Run, facts: Facts) -> Cause:
    """Why a run has not been admitted."""
    if run.held:
        return Cause(CauseCode.HELD, "it was submitted to be started by somebody, and was not yet")
    if run.due:
        return _admission(run, facts)
    if run.run_at is not None and run.run_at > facts.now:
        text = f"its start time is {_time(run.run_at)}"
        return Cause(CauseCode.START_TIME, text, {"until": run.run_at})
    if run.concurrency_key is not None:
        return _key(run.concurrency_key, facts.holder)
    if run.run_at is None:
        return _unknown(run.state)
    text = "its start time has come: the scheduler lets it go on at its next pass"
    return Cause(CauseCode.SCHEDULER, text)


def _admission(run: Run, facts: Facts) -> Cause:
    """Why a due run has not been admitted."""
    about = {"queue": run.queue, "unclaimed": facts.unclaimed}
    if facts.place is not None:
        about["position"] = facts.place.position
    needed = (facts.begins_in if facts.may_start else None) or frozenset({run.queue})
    if not any(facts.workers[queue].active for queue in needed):
        return _no_worker(min(needed), about, facts)
    if facts.may_start:
        text = "it may start now: the scheduler admits it at its next pass, if one runs"
        return Cause(CauseCode.SCHEDULER, text, about)
    if facts.unclaimed < facts.window:
        text = f"others in queue {run.queue} go first"
        return Cause(CauseCode.RANK, text, about)
    text = f"{facts.unclaimed} steps of queue {run.queue} wait for a worker already"
    return Cause(CauseCode.WINDOW, text, about)


def _key(key: str, holder: Row | None) -> Cause:
    """Which run holds the concurrency key."""
    if holder is None:
        text = f"the concurrency key {key!r} is free: it is about to be given on"
        return Cause(CauseCode.CONCURRENCY_KEY, text, {"key": key, "run_id": None})
    text = f"run {holder.number}, which is {holder.state}, has the concurrency key {key!r}"
    about = {"key": key, "run_id": holder.id, "number": holder.number, "state": holder.state}
    return Cause(CauseCode.CONCURRENCY_KEY, text, about)


def _needs(run: Run, step: Step, steps: Mapping[str, Step]) -> Cause:
    """What a pending step waits for."""
    needed = [steps[key] for key in step.needs if key in steps]
    missing = [s for s in needed if not satisfies(s.state, s.skip_cause, s.allow_failure)]
    going = {each.key: each.state for each in missing if each.state in OPEN_STEPS}
    if len(going) < len(missing):
        return _unknown(step.state)
    if going:
        text = f"it needs {', '.join(f'{key} ({going[key]})' for key in list(going)[:_MAX_NAMES])}"
        return Cause(CauseCode.NEEDS, text, {"needs": going})
    if run.state == RunState.PENDING:
        return Cause(CauseCode.RUN, "its run has not begun")
    return _unknown(step.state)


def _running(run: Run, step: Step, facts: Facts) -> Cause:
    """Which worker executes a step, and until when its lease is valid."""
    attempt = facts.attempts.get(step.id)
    if attempt is None:
        return _unknown(step.state)
    worker = facts.alias("worker", attempt.worker)
    about = {
        "worker": worker,
        "attempt": attempt.number,
        "since": attempt.started_at,
        "lease_until": attempt.lease_until,
    }
    if run.state == RunState.CANCELLING:
        about["until"] = run.stop_by
        text = f"worker {worker} was told to stop it, and has until {_time(run.stop_by)}"
        return Cause(CauseCode.CANCELLING, text, about)
    since = _time(attempt.started_at)
    text = f"worker {worker} executes attempt {attempt.number} since {since}"
    if attempt.lease_until < facts.now:
        text = (
            f"worker {worker} went silent: the scheduler takes the step from it,"
            " unless it is heard of again"
        )
    return Cause(CauseCode.RUNNING, text, about)


def _retry(step: Step, facts: Facts) -> Cause:
    """Until when a failed step waits."""
    about = {"until": step.wake_at, "attempt": step.attempt + 1, "error": step.error}
    counted = step.attempt - step.forgiven - step.losses  # by the retry policy
    at = "" if step.wake_at and step.wake_at <= facts.now else f" at {_time(step.wake_at)}"
    limit = f" of {step.max_attempts}" if step.max_attempts < MAX_ATTEMPTS else ""
    text = f"try {counted + 1}{limit} is due{at}"
    message = (step.error or {}).get("message")
    return Cause(CauseCode.RETRY, f"{text}, after: {message}" if message else text, about)


def _queued(step: Step, facts: Facts) -> Cause:
    """Why a queued step was not claimed."""
    about = {"queue": step.queue, "published_at": step.published_at}
    if not facts.workers[step.queue].active:
        return _no_worker(step.queue, about, facts)
    if step.published_at is None:
        text = f"the scheduler sends it when the window of queue {step.queue} has room"
        return Cause(CauseCode.UNPUBLISHED, text, about)
    sent, takes = f"it was sent at {_time(step.published_at)}", f"of queue {step.queue} takes it"
    if not facts.broker_answers:
        text = f"{sent}, but Redis does not answer: when it does, a worker {takes}"
        return Cause(CauseCode.BROKER, text, about)
    return Cause(CauseCode.IN_BROKER, f"{sent}: the next free worker {takes}", about)


def _no_worker(queue: str, about: Mapping[str, Any], facts: Facts) -> Cause:
    text = f"no active worker listens to queue {queue}"
    draining = facts.workers[queue].draining
    if draining:
        text += f"; draining: {', '.join(draining[:_MAX_NAMES])}"
    start_error = facts.workers[queue].start_error
    if start_error:
        text += f"; {start_error}"
    about = {**about, "draining": draining, "start_error": start_error}
    return Cause(CauseCode.NO_WORKER, text, about)


def _unknown(state: str) -> Cause:
    words = state.replace("_", " ")
    text = f"it should not be {words}: `orchestrator doctor` says what is wrong"
    return Cause(CauseCode.UNKNOWN, text)


def _some(keys: Iterable[str]) -> str:
    """The first few names, and how many more there are."""
    names = list(keys)
    more = f" and {len(names) - _MAX_NAMES} more" if len(names) > _MAX_NAMES else ""
    return f"step{'s' if len(names) > 1 else ''} {', '.join(names[:_MAX_NAMES])}{more}"


def _time(when: Any) -> str:
    return "any time" if when is None else when.isoformat(timespec="seconds").replace("+00:00", "Z")
