"""Answers what `conditions` ask of runs: pages, how many, which values, and groups of them.

Nobody else makes SQL from what a user wrote. Every text of theirs is a bound parameter, fields are
looked up here by name, and a statement that takes too long is the asker's mistake.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from operator import ge, gt, le, lt
from typing import Any
from uuid import UUID

from sqlalchemy import (
    Row,
    String,
    Uuid,
    and_,
    case,
    cast,
    exists,
    false,
    func,
    literal,
    or_,
    select,
    text,
    true,
)
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from orchestrator import tallies
from orchestrator.conditions import (
    ALWAYS,
    And,
    Choice,
    Compare,
    Condition,
    Dated,
    Field,
    In,
    Joined,
    Literal,
    Match,
    Not,
    Op,
    Or,
    Present,
    Some,
    Value,
    all_of,
    one_of,
)
from orchestrator.definitions import Workflow
from orchestrator.errors import Invalid
from orchestrator.models import PLAIN, Run, Step
from orchestrator.output_models import LogLine, Output
from orchestrator.states import RunState
from orchestrator.tallies import Kind

LONGEST = "5s"  # that one statement may take
_TOO_LONG, _NO_PATTERN = "57014", "2201B"  # Postgres' codes
_OPS = {Op.LT: lt, Op.LE: le, Op.GT: gt, Op.GE: ge}
_Fields = Mapping[str, Any]

_SAID = select(Output).where(Output.step_id == Step.id, Output.attempt == Step.attempt)
_SAID_BY_STEP = _SAID.with_only_columns(func.coalesce(Output.message, Output.stage))
# What the first step says that runs.
_SAYING = (
    select(func.coalesce(Output.message, Output.stage, Step.name))
    .select_from(Step)
    .outerjoin(Output, and_(Output.step_id == Step.id, Output.attempt == Step.attempt))
    .where(Step.run_id == Run.id, Step.state == "running")
    .order_by(Step.position)
    .limit(1)
)
_SERVICE = select(Workflow.service).where(Workflow.id == Run.workflow_id)
_OF_RUN: _Fields = {
    "id": Run.id,
    "workflow": Run.workflow,
    "service": func.nullif(_SERVICE.correlate(Run).scalar_subquery(), ""),
    "environment": Run.environment,
    "trigger": Run.trigger,
    "reason": Run.reason,
    "submitted_by": Run.submitted_by,
    "run_as": Run.run_as,
    "description": Run.description,
    "state": Run.state,
    "held": Run.held,
    "warnings": Run.warnings,
    "error_step": Run.error["step"].as_string(),
    "error_message": Run.error["message"].as_string(),
    "cancel_reason": Run.cancel_reason,
    "saying": _SAYING.correlate(Run).scalar_subquery(),
    "started_at": Run.started_at,
    "finished_at": Run.finished_at,
    "logical_date": Run.logical_date,
    "retry_of": Run.retry_of,
}
_OF_STEP: _Fields = {
    "key": Step.key,
    "name": Step.name,
    "state": Step.state,
    "attempt": Step.attempt,
    "forgiven": Step.forgiven,
    "error_message": Step.error["message"].as_string(),
    "saying": _SAID_BY_STEP.correlate(Step).scalar_subquery(),
    "started_at": Step.started_at,
    "finished_at": Step.finished_at,
}
_KIND = func.jsonb_each(Output.data).table_valued("key", "value", name="kind")
_DAY = func.jsonb_each(_KIND.c.value).table_valued("key", "value", name="day")
_ENTRY = func.jsonb_array_elements_text(_DAY.c.value).table_valued("value", name="entry")
_OF_WRITTEN: _Fields = {"kind": _KIND.c.key, "day": _DAY.c.key, "id": _ENTRY.c.value}
_WRITTEN = (
    select(1)
    .select_from(Output)
    .join(Step, and_(Step.id == Output.step_id, Step.attempt == Output.attempt))
    .join(_KIND, true())
    .join(_DAY, true())
    .join(_ENTRY, true())
    .where(Output.run_id == Run.id)
)
_PARTS: Mapping[str, tuple[Any, _Fields]] = {
    "steps": (select(1).select_from(Step).where(Step.run_id == Run.id), _OF_STEP),
    "lines": (
        select(1).select_from(LogLine).where(LogLine.run_id == Run.id),
        {"text": LogLine.text},
    ),
    "written": (_WRITTEN, _OF_WRITTEN),
}
# What tells the few runs apart that the index `ix_runs_not_plain` has.
_NOT_PLAIN = {
    In(Field("environment"), (PLAIN,)): Run.environment != PLAIN,
    In(Field("warnings"), (0,)): Run.warnings > 0,
}


class Measure(StrEnum):
    """What is said of the members of a group."""

    COUNT = "count"
    MIN = "min"
    MAX = "max"


@dataclass(frozen=True)
class Order:
    """A value that a list goes by. What has none stands first when it descends."""

    value: Value
    descending: bool = False


def page(
    session: Session,
    tenant_id: UUID,
    condition: Condition,
    order: Sequence[Order],
    shown: Mapping[str, Value],
    *,
    limit: int,
    offset: int = 0,
) -> Sequence[Row[Any]]:
    """Runs with these values of theirs, the run first. Raises Invalid when it takes too long."""
    columns = [_value(each, _OF_RUN).label(name) for name, each in shown.items()]
    by = [_value(each.value, _OF_RUN) for each in order]
    ordered = [
        column.desc() if each.descending else column for each, column in zip(order, by, strict=True)
    ]
    last = Run.id.desc() if order and order[-1].descending else Run.id
    asked = select(Run, *columns).where(*_of(tenant_id, condition)).order_by(*ordered, last)
    with _in_time(session):
        return session.execute(asked.limit(limit).offset(offset)).all()


def count(session: Session, tenant_id: UUID, condition: Condition) -> int:
    """How many runs there are; of what the tallies know, without counting them."""
    tallied = _tallied(condition)
    with _in_time(session):
        if tallied is None:
            return _count(session, tenant_id, condition)
        kind, states, plain = tallied
        found = tallies.by_state(session, tenant_id, kind)
        total = sum(found[state] for state in states)
        if plain:
            total -= _count(session, tenant_id, condition_of(kind, states), or_(*plain))
        return total


def groups(
    session: Session,
    tenant_id: UUID,
    condition: Condition,
    by: Mapping[str, Value],
    measures: Mapping[str, tuple[Measure, Value | None]],
    *,
    limit: int,
) -> list[dict[str, Any]]:
    """The different values of runs, and what is said of the runs of each.

    How many there are of each of a few words is asked word by word: the tallies know most.
    """
    counted = all(measure == Measure.COUNT for measure, _ in measures.values())
    if len(by) == 1 and counted:
        ((name, value),) = by.items()
        words = _words(condition, value)
        if words is not None:
            found = ((word, count(session, tenant_id, asked)) for word, asked in words.items())
            return [{name: word, **dict.fromkeys(measures, n)} for word, n in found if n][:limit]
    keys = {name: _value(each, _OF_RUN).label(name) for name, each in by.items()}
    said = [_measure(*each).label(name) for name, each in measures.items()]
    asked = select(*keys.values(), *said).select_from(Run).where(*_of(tenant_id, condition))
    ordered = asked.group_by(*keys.values()).order_by(*keys.values())
    with _in_time(session):
        return [dict(row._mapping) for row in session.execute(ordered.limit(limit))]


def steps(
    session: Session,
    run_ids: Sequence[UUID],
    condition: Condition,
    shown: Mapping[str, Value],
) -> Mapping[UUID, list[Row[Any]]]:
    """The steps of runs that are so, with these values, by run and in the workflow's order."""
    columns = [_value(each, _OF_STEP).label(name) for name, each in shown.items()]
    asked = select(Step.run_id, *columns).where(Step.run_id.in_(run_ids), _sql(condition, _OF_STEP))
    found: dict[UUID, list[Row[Any]]] = {run_id: [] for run_id in run_ids}
    with _in_time(session):
        for row in session.execute(asked.order_by(Step.run_id, Step.position)):
            found[row.run_id].append(row)
    return found


def condition_of(kind: Kind, states: Sequence[RunState]) -> Condition:
    """The condition that a kind of runs in one of these states is."""
    named = In(Field("workflow"), (kind.workflow,)) if kind.workflow is not None else ALWAYS
    return all_of(
        named, ALWAYS if len(states) == len(RunState) else In(Field("state"), tuple(states))
    )


def _tallied(condition: Condition) -> tuple[Kind, tuple[RunState, ...], list[Any]] | None:
    """The kind and states that say the same but for runs that are not plain; else None."""
    states, workflow, plain = set(RunState), None, []
    for part in condition.parts if isinstance(condition, And) else (condition,):
        if isinstance(part, In) and part in _NOT_PLAIN:
            plain.append(_NOT_PLAIN[part])
        elif isinstance(part, In) and part.value == Field("state"):
            states &= set(part.operands)
        elif (
            isinstance(part, In)
            and part.value == Field("workflow")
            and len(part.operands) == 1
            and workflow is None
        ):
            (workflow,) = part.operands
        else:
            return None
    return Kind(workflow=workflow), tuple(states), plain


def _words(condition: Condition, value: Value) -> Mapping[str, Condition] | None:
    """The condition with each word that the value can be, where the tallies know how many."""
    if not isinstance(value, Choice):
        return None
    words: dict[str, Condition] = {}
    for _, each in value.branches:
        if not isinstance(each, Literal):
            return None
        words[each.text] = all_of(condition, one_of(value, [each.text]))
    return words if any(map(_tallied, words.values())) else None


def _count(session: Session, tenant_id: UUID, condition: Condition, *more: Any) -> int:
    asked = select(func.count()).select_from(Run).where(*_of(tenant_id, condition), *more)
    return session.scalars(asked).one()


def _of(tenant_id: UUID, condition: Condition) -> tuple[Any, ...]:
    parts = condition.parts if isinstance(condition, And) else (condition,)
    return (Run.tenant_id == tenant_id, *(_sql(part, _OF_RUN) for part in parts))


def _sql(condition: Condition, known: _Fields) -> Any:
    match condition:
        case And(parts):
            return and_(true(), *(_sql(part, known) for part in parts))
        case Or(parts):
            return or_(false(), *(_sql(part, known) for part in parts))
        case Not(part):
            return _sql(part, known).is_not(True)
        case Some(of, inner):
            asked, theirs = _PARTS[of]
            return exists(asked.where(_sql(inner, theirs)).correlate(Run))
        case _:
            return _test(condition, known)


def _test(condition: In | Compare | Match | Present, known: _Fields) -> Any:
    match condition:
        case In(value, operands):
            column = _value(value, known)
            return column.in_(_ids(operands) if isinstance(column.type, Uuid) else operands)
        case Compare(value, op, operand):
            return _OPS[op](_comparable(_value(value, known)), operand)
        case Match(value, pattern, ignore_case):
            flags = "i" if ignore_case else None
            return _as_text(_value(value, known)).regexp_match(pattern, flags=flags)
        case Present(value):
            return _value(value, known).is_not(None)


def _value(value: Value, known: _Fields) -> Any:
    match value:
        case Field(name):
            return known[name]
        case Literal(said):
            return literal(said)
        case Joined(parts):
            first, *others = (_as_text(_value(part, known)) for part in parts)
            for other in others:
                first = first + other
            return first
        case Dated(field, format):
            return func.to_char(func.timezone("UTC", known[field.name]), format)
        case Choice(branches):
            return case(
                *((_sql(when, known), _as_text(_value(each, known))) for when, each in branches)
            )


def _ids(operands: Sequence[Any]) -> list[UUID]:
    """Those of the operands that are an id, as this program writes it."""
    found = []
    for operand in operands:
        with suppress(ValueError):
            each = UUID(str(operand))
            found += [each] if str(each) == str(operand) else []
    return found


def _as_text(column: Any) -> Any:
    return column if isinstance(column.type, String) else cast(column, String)


def _comparable(column: Any) -> Any:
    """Ids are compared as they are written, and all texts by their characters' numbers."""
    if column.type.python_type in (datetime, int):
        return column
    return _as_text(column).collate("C")


def _measure(measure: Measure, value: Value | None) -> Any:
    if measure == Measure.COUNT or value is None:
        return func.count()
    column = _value(value, _OF_RUN)
    return func.min(column) if measure == Measure.MIN else func.max(column)


@contextmanager
def _in_time(session: Session) -> Iterator[None]:
    """Raises Invalid when the search takes too long, or its pattern is one too many."""
    session.execute(text(f"SET LOCAL statement_timeout = '{LONGEST}'"))
    try:
        yield
        session.execute(text("SET LOCAL statement_timeout TO DEFAULT"))
    except DBAPIError as error:
        code = getattr(error.orig, "pgcode", None)
        if code == _TOO_LONG:
            raise Invalid("the search takes too long; narrow it, by time or by name") from None
        if code == _NO_PATTERN:
            raise Invalid("the search has a pattern that is too large") from None
        raise
