"""The fields of an execution log as expressions over runs, for output and search alike."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from operator import gt

from api.toolkit.wire import Vocabulary
from orchestrator.models import Trigger
from orchestrator.search.compiler import FieldSelection
from orchestrator.search.conditions import (
    ALWAYS,
    NEVER,
    AnyStep,
    Choice,
    Condition,
    DateOf,
    Field,
    Path,
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
DEFAULT_SERVICE = "ETL"  # of a process without a category
_DEFAULT_USER = "system"  # runAs of a run that names no user
DATA = ("curves", "series")

_JS_DATE = 'Dy Mon DD YYYY HH24:MI:SS "GMT+0000 (Greenwich Mean Time)"'
_ISO = 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"'
Branches = tuple[tuple[Condition, Value], ...]


@dataclass(frozen=True)
class Wire:
    """One field of the log: its text, and the table it is read from."""

    text: Value
    of: str | None = None  # steps, lines or written; None: the run itself
    where: Condition = ALWAYS  # which rows of that table

    @property
    def value(self) -> Value:
        """What it is sorted by: the time, if the text is one."""
        return self.text.field if isinstance(self.text, DateOf) else self.text


def _is(*states: RunState | StepState) -> Condition:
    return one_of(Field("state"), states)


def _by_word(words: Mapping[RunState, str] | Mapping[StepState, str]) -> dict[str, Condition]:
    """The condition for each word."""
    return {
        word: _is(*(state for state, each in words.items() if each == word))
        for word in dict.fromkeys(words.values())
    }


def _cases(state: Condition, *branches: tuple[Condition, Value], default: Value) -> Branches:
    """In a state: the value of the first branch whose condition holds, or the default."""
    cases = []
    for when, value in (*branches, (ALWAYS, default)):
        cases.append((all_of(state, when), value))
        state = all_of(state, negated(when))
    return tuple(cases)


def _first_present(state: Condition, *values: Value, default: Value) -> Branches:
    """In a state: the first of the values that is present, or the default."""
    return _cases(state, *((present(each), each) for each in values), default=default)


_RUN_IS, _STEP_IS = _by_word(STATES), _by_word(STEP_STATES)
_WAITING, _RUNNING = _RUN_IS["triggered"], _is(RunState.RUNNING)
_CLEAN = all_of(_is(RunState.SUCCEEDED), one_of(Field("warnings"), [0]))
_WARNED = all_of(_is(RunState.SUCCEEDED), compare(Field("warnings"), gt, 0))
_ENDED = ((_CLEAN, "success"), (_WARNED, "warning"), (_RUN_IS["failed"], "failed"))
STATUS = Choice(((_WAITING, "triggered"), (_RUN_IS["running"], "running"), *_ENDED))
_REOPENED = AnyStep("steps", compare(Field("forgiven"), gt, 0))
_STEP_WAITING = AnyStep("steps", _is(StepState.WAITING))
_STEP_RETRIES = AnyStep(
    "steps", all_of(_is(StepState.QUEUED, StepState.RUNNING), compare(Field("attempt"), gt, 1))
)
DETAILED_STATUS = Choice(
    (
        *_cases(_WAITING, (negated(_REOPENED), "triggered"), default="reschedule"),
        *_cases(
            _RUNNING, (_STEP_WAITING, "waiting"), (_STEP_RETRIES, "retrying"), default="running"
        ),
        (_is(RunState.CANCELLING), "running"),
        *_ENDED,
    )
)
# The plain words, and those behind them that only `DETAILED_STATUS` has.
STATUSES = [
    *dict.fromkeys([*STATES.values(), "warning"]),
    *("reschedule", "waiting", "retrying"),
]
_BY_CLOCK = one_of(Field("trigger"), [Trigger.SCHEDULE, Trigger.BACKFILL])
_BY_HAND = one_of(Field("trigger"), [Trigger.MANUAL, Trigger.API, Trigger.RETRY])
_TRIGGERS = Choice(
    (
        (_BY_CLOCK, "scheduled"),
        (one_of(Field("trigger"), [Trigger.EVENT]), "subscription"),
        (_BY_HAND, "manual"),
    )
)
_ERROR, _CANCEL_REASON = Field("error_message"), Field("cancel_reason")
_SAYING, _REASON, _KEY = Field("saying"), Field("reason"), Field("key")
_STEP_ERROR = Path((Field("error_step"), " failed: ", _ERROR))
_MESSAGE = Choice(
    (
        (all_of(_WAITING, one_of(Field("held"), [False])), "Waiting for a worker"),
        (all_of(_WAITING, one_of(Field("held"), [True])), "Waiting to be started"),
        *_first_present(_RUNNING, _SAYING, default="Running"),
        (_is(RunState.CANCELLING), "Cancelling"),
        (_CLEAN, "Completed Successfully"),
        (_WARNED, "Completed with warnings"),
        *_first_present(_is(RunState.FAILED), _STEP_ERROR, _ERROR, default="Failed"),
        *_cases(
            _is(RunState.TIMED_OUT),
            (present(_ERROR), Path(("Timed out: ", _ERROR))),
            default="Timed out",
        ),
        *_cases(
            _is(RunState.CANCELLED),
            (present(_CANCEL_REASON), Path(("Cancelled: ", _CANCEL_REASON))),
            default="Cancelled",
        ),
    )
)
_LOADER, _LOADER_MESSAGE = Field("loader_key"), Field("loader_message")
_LOADER_SAYS = Choice(
    (
        (present(_LOADER_MESSAGE), _LOADER_MESSAGE),
        *(
            (
                all_of(negated(present(_LOADER_MESSAGE)), one_of(Field("loader_state"), states)),
                Path((verb, _LOADER)),
            )
            for verb, states in (
                ("Running ", [state for state, word in STEP_STATES.items() if word == "running"]),
                ("Completed ", [StepState.SUCCEEDED]),
                ("Failed ", [StepState.FAILED]),
                ("Cancelled ", [StepState.CANCELLED]),
            )
        ),
    )
)
_CRON = Path(("crontab(", Field("workflow"), ",", DateOf(Field("logical_date"), _JS_DATE), ")"))
_SCHEDULED = all_of(_BY_CLOCK, present(Field("logical_date")))

RUN: Mapping[str, Value] = {
    "_id": Field("id"),
    "service": Choice(_first_present(ALWAYS, Field("service"), default=DEFAULT_SERVICE)),
    "name": Field("workflow"),
    "environment": Field("environment"),
    "trigger": _TRIGGERS,
    "reason": Choice(
        _cases(ALWAYS, (_SCHEDULED, _CRON), (present(_REASON), _REASON), default=_TRIGGERS)
    ),
    "triggerTime": DateOf(Field("logical_date"), _ISO),
    "start": DateOf(Field("started_at"), _ISO),
    "end": DateOf(Field("finished_at"), _ISO),
    "runAs": Choice(
        _first_present(ALWAYS, Field("run_as"), Field("submitted_by"), default=_DEFAULT_USER)
    ),
    "status": STATUS,
    "message": _MESSAGE,
    "loaderMessage": _LOADER_SAYS,
    "parentId": Field("retry_of"),
}
PLAIN = FieldSelection(RUN)
PHASE: Mapping[str, Value] = {
    "name": _KEY,
    "start": DateOf(Field("started_at"), _ISO),
    "end": DateOf(Field("finished_at"), _ISO),
    "status": Choice(tuple((when, word) for word, when in _STEP_IS.items())),
    "message": Choice(
        (
            *_first_present(_STEP_IS["running"], _SAYING, default=Path(("Running ", _KEY))),
            (_is(StepState.SUCCEEDED), Path(("Completed ", _KEY))),
            *_first_present(_is(StepState.FAILED), _ERROR, default=Path(("Failed ", _KEY))),
            (_is(StepState.CANCELLED), Path(("Cancelled ", _KEY))),
        )
    ),
}
# A phase appears when its step starts; a skipped step has none.
PHASE_VISIBLE = all_of(present(Field("started_at")), negated(_is(StepState.SKIPPED)))
NULL = Choice(())  # the value of a field that no log has


@cache
def fields_of(*, detailed: bool, titled: bool) -> FieldSelection:
    """The fields of a log: with the longer list of statuses, and with display names."""
    status = {"status": DETAILED_STATUS} if detailed else {}
    return FieldSelection({**RUN, **status, **({"name": Field("title")} if titled else {})})


def wire_of(path: str, fields: FieldSelection = PLAIN) -> Wire:
    """The field with this dotted name."""
    first, _, rest = path.partition(".")
    if first == "data":
        return _data_field(rest)
    if path == "phases.log":
        return Wire(Field("text"), "lines")
    if first == "phases":
        return Wire(PHASE.get(rest or "name", NULL), "steps", PHASE_VISIBLE)
    if path == "description":  # searched, but not part of the log
        return Wire(Field("description"))
    return Wire(fields.values.get(path, NULL))


def _data_field(path: str) -> Wire:
    kind, _, day = path.partition(".")
    if kind and kind not in DATA:
        return Wire(NULL)
    # `data` shows both kinds as soon as one of them exists.
    where = one_of(Field("kind"), [kind] if day else DATA)
    if day:
        where = all_of(where, one_of(Field("day"), [day]))
    return Wire(Field("id"), "written", where)


def condition_on(wire: Wire, condition: Condition) -> Condition:
    """The condition on the run, or on any row of the table that the field is read from."""
    if wire.of is None or condition == NEVER:
        return condition
    return AnyStep(wire.of, all_of(wire.where, condition))


def exists(wire: Wire) -> Condition:
    """Whether a log has the field."""
    return condition_on(wire, ALWAYS if wire.of == "written" else present(wire.value))
