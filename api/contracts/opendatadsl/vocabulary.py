"""The fields of an execution log in the core's terms: shown and searched by one definition."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from orchestrator.models import Trigger
from orchestrator.search.conditions import (
    AnyStep,
    Choice,
    Compare,
    Condition,
    DateOf,
    Field,
    Literal,
    Op,
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

# Seven words of the later list are told apart from these only for tenants that ask for it.
STATES: Mapping[RunState, str] = {
    RunState.PENDING: "triggered",
    RunState.QUEUED: "triggered",
    RunState.RUNNING: "running",
    RunState.CANCELLING: "running",
    RunState.SUCCEEDED: "success",
    RunState.FAILED: "failed",
    RunState.TIMED_OUT: "failed",
    RunState.CANCELLED: "failed",
}
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
SERVICE = "ETL"  # of a process that names no category
NOBODY = "system"  # whose rights apply when nobody's were named

_STATE = Field("state")
_JS_DATE = 'Dy Mon DD YYYY HH24:MI:SS "GMT+0000 (Greenwich Mean Time)"'
_ISO = 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"'


@dataclass(frozen=True)
class Wire:
    """One field of the log: its text, the time that it is, or the part of a run it belongs to."""

    text: Value
    time: Field | None = None
    of: str | None = None  # steps, lines or written
    given: Condition = field(default_factory=all_of)  # which of them count


def _is(*states: RunState) -> Condition:
    return one_of(_STATE, states)


def _step_is(*states: StepState) -> Condition:
    return one_of(_STATE, states)


_WARNED = compare(Field("warnings"), Op.GT, 0)
_PLAIN = one_of(Field("warnings"), [0])
_WAITS = _is(RunState.PENDING, RunState.QUEUED)
_ENDED_WELL = (
    (all_of(_is(RunState.SUCCEEDED), _PLAIN), Literal(STATES[RunState.SUCCEEDED])),
    (all_of(_is(RunState.SUCCEEDED), _WARNED), Literal(WARNING)),
)
_ENDED_BADLY = (
    _is(RunState.FAILED, RunState.TIMED_OUT, RunState.CANCELLED),
    Literal(STATES[RunState.FAILED]),
)
STATUS = Choice(
    (
        (_WAITS, Literal("triggered")),
        (_is(RunState.RUNNING, RunState.CANCELLING), Literal("running")),
        *_ENDED_WELL,
        _ENDED_BADLY,
    )
)
_REOPENED = AnyStep("steps", Compare(Field("forgiven"), Op.GT, 0))
_STEP_WAITS = AnyStep("steps", _step_is(StepState.WAITING))
_STEP_AGAIN = AnyStep(
    "steps",
    all_of(_step_is(StepState.QUEUED, StepState.RUNNING), Compare(Field("attempt"), Op.GT, 1)),
)
_RUNS = _is(RunState.RUNNING)
DETAILED_STATUS = Choice(
    (
        (all_of(_WAITS, negated(_REOPENED)), Literal("triggered")),
        (all_of(_WAITS, _REOPENED), Literal(RESCHEDULE)),
        (all_of(_RUNS, _STEP_WAITS), Literal(WAITING)),
        (all_of(_RUNS, negated(_STEP_WAITS), _STEP_AGAIN), Literal(RETRYING)),
        (all_of(_RUNS, negated(_STEP_WAITS), negated(_STEP_AGAIN)), Literal("running")),
        (_is(RunState.CANCELLING), Literal("running")),
        *_ENDED_WELL,
        _ENDED_BADLY,
    )
)
_TRIGGERS = Choice(
    (
        (one_of(Field("trigger"), [Trigger.SCHEDULE, Trigger.BACKFILL]), Literal("scheduled")),
        (one_of(Field("trigger"), [Trigger.EVENT]), Literal("subscription")),
        (
            one_of(Field("trigger"), [Trigger.MANUAL, Trigger.API, Trigger.RETRY]),
            Literal("manual"),
        ),
    )
)


def _either(*values: Value) -> Choice:
    """The first of these that is there."""
    branches, before = [], all_of()
    for value in values:
        branches.append((all_of(before, present(value)), value))
        before = all_of(before, negated(present(value)))
    return Choice(tuple(branches))


def _told(
    state: Condition, prefix: str, *whys: Value, plain: str
) -> Sequence[tuple[Condition, Value]]:
    """A state's message: its prefix and the reason that is there, or the plain words."""
    reasons = _either(*whys).branches
    silent = all_of(state, *(negated(present(why)) for why in whys))
    return (
        *((all_of(state, when), Path((Literal(prefix), why))) for when, why in reasons),
        (silent, Literal(plain)),
    )


_ERROR = Field("error_message")
_BLAMED = Path((Field("error_step"), Literal(" failed: "), _ERROR))
_MESSAGE = Choice(
    (
        (all_of(_WAITS, one_of(Field("held"), [False])), Literal("Waiting for a worker")),
        (all_of(_WAITS, one_of(Field("held"), [True])), Literal("Waiting to be started")),
        *_told(_RUNS, "", Field("saying"), plain="Running"),
        (_is(RunState.CANCELLING), Literal("Cancelling")),
        (all_of(_is(RunState.SUCCEEDED), _PLAIN), Literal("Completed Successfully")),
        (all_of(_is(RunState.SUCCEEDED), _WARNED), Literal("Completed with warnings")),
        *_told(_is(RunState.FAILED), "", _BLAMED, _ERROR, plain="Failed"),
        *_told(_is(RunState.TIMED_OUT), "Timed out: ", _ERROR, plain="Timed out"),
        *_told(_is(RunState.CANCELLED), "Cancelled: ", Field("cancel_reason"), plain="Cancelled"),
    )
)
_TIMED = all_of(
    one_of(Field("trigger"), [Trigger.SCHEDULE, Trigger.BACKFILL]), present(Field("logical_date"))
)
_NAMED = present(Field("reason"))
_REASON = Choice(
    (
        (
            _TIMED,
            Path(
                (
                    Literal("crontab("),
                    Field("workflow"),
                    Literal(","),
                    DateOf(Field("logical_date"), _JS_DATE),
                    Literal(")"),
                )
            ),
        ),
        (all_of(negated(_TIMED), _NAMED), Field("reason")),
        (all_of(negated(_TIMED), negated(_NAMED)), _TRIGGERS),
    )
)


def _time(name: str) -> Wire:
    return Wire(DateOf(Field(name), _ISO), Field(name))


# In the order in which they are shown.
RUN: Mapping[str, Wire] = {
    "_id": Wire(Field("id")),
    "service": Wire(_either(Field("service"), Literal(SERVICE))),
    "name": Wire(Field("workflow")),
    "environment": Wire(Field("environment")),
    "trigger": Wire(_TRIGGERS),
    "reason": Wire(_REASON),
    "triggerTime": _time("logical_date"),
    "start": _time("started_at"),
    "end": _time("finished_at"),
    "runAs": Wire(_either(Field("run_as"), Field("submitted_by"), Literal(NOBODY))),
    "status": Wire(STATUS),
    "message": Wire(_MESSAGE),
    "parentId": Wire(Field("retry_of")),
}
# Not shown, yet searched: what the process is said to be for.
DESCRIPTION = Wire(Field("description"))

_STEP_STATUS = Choice(
    tuple(
        (_step_is(*(state for state in STEP_STATES if STEP_STATES[state] == word)), Literal(word))
        for word in dict.fromkeys(STEP_STATES.values())
    )
)
_GOES_ON = _step_is(*(state for state, word in STEP_STATES.items() if word == "running"))


def _of_step(word: str) -> Path:
    return Path((Literal(f"{word} "), Field("key")))


_STEP_MESSAGE = Choice(
    (
        (all_of(_GOES_ON, present(Field("saying"))), Field("saying")),
        (all_of(_GOES_ON, negated(present(Field("saying")))), _of_step("Running")),
        (_step_is(StepState.SUCCEEDED), _of_step("Completed")),
        (all_of(_step_is(StepState.FAILED), present(_ERROR)), _ERROR),
        (all_of(_step_is(StepState.FAILED), negated(present(_ERROR))), _of_step("Failed")),
        (_step_is(StepState.CANCELLED), _of_step("Cancelled")),
    )
)
# A phase appears when its step starts, and one that was skipped never does.
PHASE_SHOWS = all_of(Present(Field("started_at")), negated(_step_is(StepState.SKIPPED)))


def _phase(text: Value, time: Field | None = None) -> Wire:
    return Wire(text, time, "steps", PHASE_SHOWS)


PHASE: Mapping[str, Wire] = {
    "name": _phase(Field("key")),
    "start": _phase(DateOf(Field("started_at"), _ISO), Field("started_at")),
    "end": _phase(DateOf(Field("finished_at"), _ISO), Field("finished_at")),
    "status": _phase(_STEP_STATUS),
    "message": _phase(_STEP_MESSAGE),
}
DATA = ("curves", "series")


def wire_of(path: str, *, detailed: bool = False) -> Wire | None:
    """The field of this dotted name; None for one that no log has."""
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
    # Both kinds are shown when there is one of them.
    given = [one_of(Field("kind"), [kind] if day else DATA)]
    given += [one_of(Field("day"), [day])] if day else []
    return Wire(Field("id"), of="written", given=all_of(*given))


def about(wire: Wire, condition: Condition) -> Condition:
    """The condition on a field, of the run itself or of any of its parts."""
    return AnyStep(wire.of, all_of(wire.given, condition)) if wire.of else condition


def is_there(wire: Wire) -> Condition:
    """Whether a log has the field."""
    return about(wire, all_of() if wire.of == "written" else present(wire.time or wire.text))
