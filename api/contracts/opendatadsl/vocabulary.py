"""The fields of an execution log as expressions over runs, for output and search alike."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from operator import gt

from api.toolkit.wire import Vocabulary
from orchestrator.models import Trigger
from orchestrator.search.conditions import (
    AnyStep,
    Choice,
    Compare,
    Condition,
    DateOf,
    Field,
    Path,
    Present,
    Value,
    all_of,
    compare,
    negated,
    one_of,
    present,
)
from orchestrator.states import RunState, StepState

# The later, longer list of statuses (DETAILED_STATUS) is a setting of the tenant.
STATES = Vocabulary(RunState, {
    RunState.PENDING: "triggered",
    RunState.QUEUED: "triggered",
    RunState.RUNNING: "running",
    RunState.CANCELLING: "running",
    RunState.SUCCEEDED: "success",
    RunState.FAILED: "failed",
    RunState.TIMED_OUT: "failed",
    RunState.CANCELLED: "failed",
})  # fmt: skip
STEP_STATES: Mapping[StepState, str] = {
    StepState.PENDING: "running",
    StepState.QUEUED: "running",
    StepState.RUNNING: "running",
    StepState.WAITING: "running",
    StepState.SUCCEEDED: "success",
    StepState.FAILED: "failed",
    StepState.CANCELLED: "failed",
}
WARNING, WAITING, RETRYING, RESCHEDULE = "warning", "waiting", "retrying", "reschedule"
DEFAULT_SERVICE = "ETL"  # of a process without a category
DEFAULT_USER = "system"  # runAs of a run that names no user

_STATE = Field("state")
_JS_DATE = 'Dy Mon DD YYYY HH24:MI:SS "GMT+0000 (Greenwich Mean Time)"'
_ISO = 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"'


@dataclass(frozen=True)
class Wire:
    """One field of the log: its text, its time if it is one, and the table it is read from."""

    text: Value
    time: Field | None = None
    of: str | None = None  # steps, lines or written; None: the run itself
    where: Condition = field(default_factory=all_of)  # which rows of that table


def _is(*states: RunState) -> Condition:
    return one_of(_STATE, states)


def _step_is(*states: StepState) -> Condition:
    return one_of(_STATE, states)


_HAS_WARNINGS = compare(Field("warnings"), gt, 0)
_NO_WARNINGS = one_of(Field("warnings"), [0])
_WAITING = _is(RunState.PENDING, RunState.QUEUED)
_SUCCEEDED = (
    (all_of(_is(RunState.SUCCEEDED), _NO_WARNINGS), STATES[RunState.SUCCEEDED]),
    (all_of(_is(RunState.SUCCEEDED), _HAS_WARNINGS), WARNING),
)
_FAILED = (
    _is(RunState.FAILED, RunState.TIMED_OUT, RunState.CANCELLED),
    STATES[RunState.FAILED],
)
STATUS = Choice(
    (
        (_WAITING, "triggered"),
        (_is(RunState.RUNNING, RunState.CANCELLING), "running"),
        *_SUCCEEDED,
        _FAILED,
    )
)
_REOPENED = AnyStep("steps", Compare(Field("forgiven"), gt, 0))
_STEP_WAITING = AnyStep("steps", _step_is(StepState.WAITING))
_STEP_RETRIES = AnyStep(
    "steps",
    all_of(_step_is(StepState.QUEUED, StepState.RUNNING), Compare(Field("attempt"), gt, 1)),
)
_RUNNING = _is(RunState.RUNNING)
DETAILED_STATUS = Choice(
    (
        (all_of(_WAITING, negated(_REOPENED)), "triggered"),
        (all_of(_WAITING, _REOPENED), RESCHEDULE),
        (all_of(_RUNNING, _STEP_WAITING), WAITING),
        (all_of(_RUNNING, negated(_STEP_WAITING), _STEP_RETRIES), RETRYING),
        (all_of(_RUNNING, negated(_STEP_WAITING), negated(_STEP_RETRIES)), "running"),
        (_is(RunState.CANCELLING), "running"),
        *_SUCCEEDED,
        _FAILED,
    )
)
_TRIGGERS = Choice(
    (
        (one_of(Field("trigger"), [Trigger.SCHEDULE, Trigger.BACKFILL]), "scheduled"),
        (one_of(Field("trigger"), [Trigger.EVENT]), "subscription"),
        (
            one_of(Field("trigger"), [Trigger.MANUAL, Trigger.API, Trigger.RETRY]),
            "manual",
        ),
    )
)


def _first_present(*values: Value) -> Choice:
    """COALESCE of the values."""
    branches, before = [], all_of()
    for value in values:
        branches.append((all_of(before, present(value)), value))
        before = all_of(before, negated(present(value)))
    return Choice(tuple(branches))


def _messages(
    state: Condition, prefix: str, *reasons: Value, default: str
) -> Sequence[tuple[Condition, Value]]:
    """The message of a state: the prefix and the first reason present, or the default."""
    branches = _first_present(*reasons).branches
    unexplained = all_of(state, *(negated(present(reason)) for reason in reasons))
    return (
        *((all_of(state, when), Path((prefix, reason))) for when, reason in branches),
        (unexplained, default),
    )


_ERROR = Field("error_message")
_STEP_ERROR = Path((Field("error_step"), " failed: ", _ERROR))
_MESSAGE = Choice(
    (
        (all_of(_WAITING, one_of(Field("held"), [False])), "Waiting for a worker"),
        (all_of(_WAITING, one_of(Field("held"), [True])), "Waiting to be started"),
        *_messages(_RUNNING, "", Field("saying"), default="Running"),
        (_is(RunState.CANCELLING), "Cancelling"),
        (all_of(_is(RunState.SUCCEEDED), _NO_WARNINGS), "Completed Successfully"),
        (all_of(_is(RunState.SUCCEEDED), _HAS_WARNINGS), "Completed with warnings"),
        *_messages(_is(RunState.FAILED), "", _STEP_ERROR, _ERROR, default="Failed"),
        *_messages(_is(RunState.TIMED_OUT), "Timed out: ", _ERROR, default="Timed out"),
        *_messages(
            _is(RunState.CANCELLED), "Cancelled: ", Field("cancel_reason"), default="Cancelled"
        ),
    )
)
_SCHEDULED = all_of(
    one_of(Field("trigger"), [Trigger.SCHEDULE, Trigger.BACKFILL]), present(Field("logical_date"))
)
_HAS_REASON = present(Field("reason"))
_REASON = Choice(
    (
        (
            _SCHEDULED,
            Path(
                (
                    "crontab(",
                    Field("workflow"),
                    ",",
                    DateOf(Field("logical_date"), _JS_DATE),
                    ")",
                )
            ),
        ),
        (all_of(negated(_SCHEDULED), _HAS_REASON), Field("reason")),
        (all_of(negated(_SCHEDULED), negated(_HAS_REASON)), _TRIGGERS),
    )
)


def _time(name: str) -> Wire:
    return Wire(DateOf(Field(name), _ISO), Field(name))


RUN: Mapping[str, Wire] = {
    "_id": Wire(Field("id")),
    "service": Wire(_first_present(Field("service"), DEFAULT_SERVICE)),
    "name": Wire(Field("workflow")),
    "environment": Wire(Field("environment")),
    "trigger": Wire(_TRIGGERS),
    "reason": Wire(_REASON),
    "triggerTime": _time("logical_date"),
    "start": _time("started_at"),
    "end": _time("finished_at"),
    "runAs": Wire(_first_present(Field("run_as"), Field("submitted_by"), DEFAULT_USER)),
    "status": Wire(STATUS),
    "message": Wire(_MESSAGE),
    "parentId": Wire(Field("retry_of")),
}
# Searched, but not part of the log.
DESCRIPTION = Wire(Field("description"))

_STEP_STATUS = Choice(
    tuple(
        (_step_is(*(state for state in STEP_STATES if STEP_STATES[state] == word)), word)
        for word in dict.fromkeys(STEP_STATES.values())
    )
)
_STEP_ACTIVE = _step_is(*(state for state, word in STEP_STATES.items() if word == "running"))


def _step_message(word: str) -> Path:
    return Path((f"{word} ", Field("key")))


_STEP_MESSAGE = Choice(
    (
        (all_of(_STEP_ACTIVE, present(Field("saying"))), Field("saying")),
        (all_of(_STEP_ACTIVE, negated(present(Field("saying")))), _step_message("Running")),
        (_step_is(StepState.SUCCEEDED), _step_message("Completed")),
        (all_of(_step_is(StepState.FAILED), present(_ERROR)), _ERROR),
        (all_of(_step_is(StepState.FAILED), negated(present(_ERROR))), _step_message("Failed")),
        (_step_is(StepState.CANCELLED), _step_message("Cancelled")),
    )
)
# A phase appears when its step starts; a skipped step has none.
PHASE_VISIBLE = all_of(Present(Field("started_at")), negated(_step_is(StepState.SKIPPED)))


def _phase(text: Value, time: Field | None = None) -> Wire:
    return Wire(text, time, "steps", PHASE_VISIBLE)


PHASE: Mapping[str, Wire] = {
    "name": _phase(Field("key")),
    "start": _phase(DateOf(Field("started_at"), _ISO), Field("started_at")),
    "end": _phase(DateOf(Field("finished_at"), _ISO), Field("finished_at")),
    "status": _phase(_STEP_STATUS),
    "message": _phase(_STEP_MESSAGE),
}
DATA = ("curves", "series")


def wire_of(path: str, *, detailed: bool = False) -> Wire | None:
    """The field with this dotted name; None if a log has no such field."""
    first, _, rest = path.partition(".")
    if path == "status" and detailed:
        return Wire(DETAILED_STATUS)
    if first == "phases":
        return _phase_field(rest)
    if first == "data":
        return _data_field(rest)
    return DESCRIPTION if path == "description" else RUN.get(path)


def _phase_field(name: str) -> Wire | None:
    if name == "log":
        return Wire(Field("text"), of="lines")
    return PHASE.get(name) if name else _phase(Field("key"))


def _data_field(path: str) -> Wire | None:
    kind, _, day = path.partition(".")
    if kind and kind not in DATA:
        return None
    # `data` shows both kinds as soon as one of them exists.
    where = [one_of(Field("kind"), [kind] if day else DATA)]
    where += [one_of(Field("day"), [day])] if day else []
    return Wire(Field("id"), of="written", where=all_of(*where))


def condition_on(wire: Wire, condition: Condition) -> Condition:
    """The condition on the run, or on any row of the table that the field is read from."""
    return AnyStep(wire.of, all_of(wire.where, condition)) if wire.of else condition


def exists(wire: Wire) -> Condition:
    """Whether a log has the field."""
    return condition_on(wire, all_of() if wire.of == "written" else present(wire.time or wire.text))
