"""The two state machines: every legal change of state is one row of one table.

`db.transitions` turns a row into one guarded UPDATE, so the database enforces these tables. So do
its functions, with which workers claim and finish steps; a test compares them with the tables.
"""

from enum import Enum, StrEnum, unique


class RunState(StrEnum):
    """The state of a run."""

    PENDING = "pending"  # accepted; held by its start time, a limit or the window
    QUEUED = "queued"  # its first steps are published
    RUNNING = "running"  # a step was claimed
    CANCELLING = "cancelling"  # cancelled or timed out, while a step still holds a claim
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    TIMED_OUT = "timed_out"
    CANCELLED = "cancelled"


class StepState(StrEnum):
    """The state of a step."""

    PENDING = "pending"  # waits for its needs
    QUEUED = "queued"  # may be claimed
    RUNNING = "running"  # claimed by one attempt
    WAITING = "waiting"  # for the time of its next attempt
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    SKIPPED = "skipped"  # `skip_cause` says why
    CANCELLED = "cancelled"


class SkipCause(StrEnum):
    """Why a step was skipped; only after the last one do its dependents not run."""

    CONDITION = "condition"  # its `when` was false
    DISABLED = "disabled"  # its `enabled` is false
    UPSTREAM = "upstream"  # a step it needs failed


class Transition(Enum):
    """A change of state: the event it writes, the states it starts from, the state it enters."""

    def __init__(self, event: str, sources: set[StrEnum], target: StrEnum) -> None:
        self.event, self.sources, self.target = event, frozenset(sources), target
        self.reopens = target == "pending"  # again: it leaves a terminal state; retry only

    @property
    def ends(self) -> bool:
        """Whether the state it enters is terminal."""
        return self.target in terminal(type(self))


def terminal(table: type[Transition]) -> frozenset[StrEnum]:
    """The states that a transition enters and only a retry leaves."""
    entered = {row.target for row in table}
    left = {source for row in table if not row.reopens for source in row.sources}
    return frozenset(entered - left)


_R, _S = RunState, StepState


@unique
class RunTransition(Transition):
    """Every legal change of a run's state."""

    ADMIT = "run.queued", {_R.PENDING}, _R.QUEUED
    START = "run.started", {_R.QUEUED}, _R.RUNNING
    SUCCEED = "run.succeeded", {_R.RUNNING}, _R.SUCCEEDED
    FAIL = "run.failed", {_R.RUNNING}, _R.FAILED
    CANCEL = "run.cancelled", {_R.PENDING, _R.QUEUED}, _R.CANCELLED
    STOP = "run.cancelling", {_R.RUNNING}, _R.CANCELLING
    STOPPED = "run.cancelled", {_R.CANCELLING}, _R.CANCELLED
    TIME_OUT = "run.timed_out", {_R.CANCELLING}, _R.TIMED_OUT
    REOPEN = "run.reopened", {_R.SUCCEEDED, _R.FAILED, _R.TIMED_OUT, _R.CANCELLED}, _R.PENDING


@unique
class StepTransition(Transition):
    """Every legal change of a step's state."""

    READY = "step.queued", {_S.PENDING}, _S.QUEUED
    WAKE = "step.queued", {_S.WAITING}, _S.QUEUED
    CLAIM = "step.started", {_S.QUEUED}, _S.RUNNING
    CONTINUE = "step.started", {_S.PENDING}, _S.RUNNING  # in place, by the worker of its need
    SUCCEED = "step.succeeded", {_S.RUNNING}, _S.SUCCEEDED
    FAIL = "step.failed", {_S.RUNNING}, _S.FAILED
    SKIP = "step.skipped", {_S.RUNNING}, _S.SKIPPED
    POSTPONE = "step.waiting", {_S.RUNNING}, _S.WAITING
    RESCUE = "step.rescued", {_S.RUNNING}, _S.QUEUED
    HAND_BACK = "step.handed_back", {_S.RUNNING}, _S.QUEUED
    STOP = "step.cancelled", {_S.RUNNING}, _S.CANCELLED
    OMIT = "step.skipped", {_S.PENDING, _S.QUEUED, _S.WAITING}, _S.SKIPPED
    CANCEL = "step.cancelled", {_S.PENDING, _S.QUEUED, _S.WAITING}, _S.CANCELLED
    RESET = "step.reset", {_S.SUCCEEDED, _S.FAILED, _S.SKIPPED, _S.CANCELLED}, _S.PENDING


OPEN_STEPS = frozenset(StepState) - terminal(StepTransition)
FINAL_RUNS = frozenset(terminal(RunTransition))


def satisfies(state: StepState, skip_cause: SkipCause | None, allow_failure: bool) -> bool:
    """Whether the steps that need this one may run; `db.transitions.SATISFIED` is this in SQL."""
    if state == StepState.SKIPPED:
        return skip_cause != SkipCause.UPSTREAM
    return state == StepState.SUCCEEDED or (state == StepState.FAILED and allow_failure)
