"""Answers what `conditions` ask of runs: pages, how many, which values, and groups of them.

Nobody else makes SQL from what a user wrote. Every text of theirs is a bound parameter, fields are
looked up here by name, and a statement that takes too long is the asker's mistake.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from functools import cache, partial
from itertools import combinations
from typing import Any
from uuid import UUID

from sqlalchemy import Select, func, or_, select, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from orchestrator.db import Row, statements
from orchestrator.errors import Invalid
from orchestrator.models import PLAIN_RUN, Run, Step
from orchestrator.monitoring import run_counts
from orchestrator.monitoring.run_counts import RunCountKey
from orchestrator.search import compiler
from orchestrator.search.compiler import RUN_FIELDS, STEP_FIELDS
from orchestrator.search.conditions import (
    ALWAYS,
    AnyStep,
    Choice,
    Compare,
    Condition,
    Field,
    InValues,
    Literal,
    Not,
    Or,
    Value,
    all_of,
    excludes,
    one_of,
    parts_of,
)
from orchestrator.states import RunState

MAX_SECONDS = "5s"  # that one statement may take
_NAME = Field("workflow")
_FEW = 4  # alternatives that are counted one by one
_TOO_LONG, _NO_PATTERN = "57014", "2201B"  # Postgres' codes
# What tells the few runs apart that the index `ix_runs_not_plain` has.
_NOT_PLAIN = {
    InValues(Field("environment"), (PLAIN_RUN,)): or_(
        Run.environment < PLAIN_RUN, Run.environment > PLAIN_RUN
    ),
    InValues(Field("warnings"), (0,)): Run.warnings > 0,
}


class Measure(StrEnum):
    """What is said of the members of a group."""

    COUNT = "count"
    MIN = "min"
    MAX = "max"


@dataclass(frozen=True)
class SearchOrder:
    """A value that a list goes by. What has none stands first when it descends."""

    value: Value
    descending: bool = False


@dataclass(frozen=True, eq=False)
class FieldSelection:
    """Values by name that are read of many rows by one statement, which is written once."""

    values: Mapping[str, Value]
    which: Condition = ALWAYS


@contextmanager
def with_time_limit(session: Session) -> Iterator[None]:
    """For the rest of the transaction, raise Invalid for a search that takes too long."""
    session.execute(text(f"SET LOCAL statement_timeout = '{MAX_SECONDS}'"))
    try:
        yield
    except DBAPIError as error:
        code = getattr(error.orig, "pgcode", None)
        if code == _TOO_LONG:
            raise Invalid("the search takes too long; narrow it, by time or by name") from None
        if code == _NO_PATTERN:
            raise Invalid("the search has a pattern that is too large") from None
        raise


def page_of_runs(
    session: Session,
    tenant_id: UUID,
    condition: Condition,
    order: Sequence[SearchOrder],
    *,
    limit: int,
    offset: int = 0,
) -> Sequence[UUID]:
    """The ids of the runs in this order, which the indexes mostly know by themselves."""
    by = [compiler.compile_field(each.value, RUN_FIELDS) for each in order]
    ordered = [
        column.desc() if each.descending else column for each, column in zip(order, by, strict=True)
    ]
    last = Run.id.desc() if order and order[-1].descending else Run.id
    asked = select(Run.id).where(*_of(tenant_id, condition)).order_by(*ordered, last)
    return session.scalars(asked.limit(limit).offset(offset)).all()


def distinct_values(
    session: Session, run_ids: Sequence[UUID], shown: FieldSelection
) -> Sequence[Row]:
    """The values of these runs, in their order, each row after the run's place, from 1 on."""
    return statements.rows(session, _written(shown), ids=list(run_ids)) if run_ids else ()


def steps_of_runs(
    session: Session, run_ids: Sequence[UUID], shown: FieldSelection
) -> Sequence[Row]:
    """The values of these runs' steps, by the run's place and in the workflow's order."""
    return (
        statements.rows(session, _written(shown, of_steps=True), ids=list(run_ids))
        if run_ids
        else ()
    )


def count_runs(session: Session, tenant_id: UUID, condition: Condition) -> int:
    """How many runs there are; of what the tallies or an index know, without counting them."""
    parts = parts_of(condition)
    unlike = [found for found in map(_unlike, parts) if found is not None]
    most = all_of(*(part for part in parts if _unlike(part) is None))
    total = _known(session, tenant_id, most)
    if total is not None:
        return total - (_count(session, tenant_id, most, or_(*unlike)) if unlike and total else 0)
    added, taken = _sum(condition)
    if not added:
        return _count(session, tenant_id, condition)
    known = partial(count_runs, session, tenant_id)
    return sum(map(known, added)) - sum(map(known, taken))


def group_runs(
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
            found = ((word, count_runs(session, tenant_id, asked)) for word, asked in words.items())
            return [{name: word, **dict.fromkeys(measures, n)} for word, n in found if n][:limit]
    keys = {name: compiler.compile_field(each, RUN_FIELDS).label(name) for name, each in by.items()}
    said = [_measure(*each).label(name) for name, each in measures.items()]
    asked = select(*keys.values(), *said).select_from(Run).where(*_of(tenant_id, condition))
    ordered = asked.group_by(*keys.values()).order_by(*keys.values())
    return [dict(row._mapping) for row in session.execute(ordered.limit(limit))]


def _known(session: Session, tenant_id: UUID, condition: Condition) -> int | None:
    """How many runs there are, if the tallies or an index know; else None."""
    if isinstance(condition, AnyStep) and condition.of == "steps":
        return session.scalars(_count_by_steps(tenant_id, condition.condition)).one()
    tallied = _tallied(condition)
    if tallied is None:
        return None
    kind, states = tallied
    found = run_counts.counts_by_state(session, tenant_id, kind)
    return sum(found[state] for state in states)


def _tallied(condition: Condition) -> tuple[RunCountKey, tuple[RunState, ...]] | None:
    """The kind and states that say the same but for runs that are unlike most; else None."""
    states, workflow = set(RunState), None
    for part in parts_of(condition):
        if _unlike(part) is not None:
            continue
        if isinstance(part, InValues) and part.value == Field("state"):
            states &= set(part.operands)
        elif (
            isinstance(part, InValues)
            and part.value == _NAME
            and len(part.operands) == 1
            and workflow is None
        ):
            (workflow,) = part.operands
        else:
            return None
    return RunCountKey(workflow=workflow), tuple(states)


def _sum(condition: Condition) -> tuple[Sequence[Condition], Sequence[Condition]]:
    """Conditions that are counted faster one by one: those to add and those to take; else none.

    Each of a few alternatives that exclude each other has an index of its own, and an opposite is
    what it leaves of the whole, when the tallies know both.
    """
    parts = parts_of(condition)
    special = [
        part for part in parts if not isinstance(part, InValues | Compare) or _is_names(part)
    ]
    if len(special) != 1:
        return (), ()
    (part,) = special
    others = [each for each in parts if each is not part]
    inner = part.part if isinstance(part, Not) else part
    pieces = [all_of(*others, each) for each in _alternatives(inner)]
    if not isinstance(part, Not):
        return pieces, ()
    whole = all_of(*others)
    known = pieces and _tallied(whole) is not None
    return ((whole,), pieces) if known else ((), ())


def _is_names(part: Condition) -> bool:
    return isinstance(part, InValues) and part.value == _NAME and len(part.operands) > 1


def _alternatives(part: Condition) -> Sequence[Condition]:
    """A few simple conditions, of which just one holds when this does, and else none."""
    each: Sequence[Condition] = part.parts if isinstance(part, Or) else (part,)
    if isinstance(part, InValues) and _is_names(part):
        each = [InValues(_NAME, (name,)) for name in part.operands]
    flat = all(isinstance(inner, InValues | Compare) for one in each for inner in parts_of(one))
    apart = len(each) <= _FEW and flat and all(excludes(*pair) for pair in combinations(each, 2))
    return each if apart else ()


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


def _unlike(part: Condition) -> Any:
    """What tells the few runs apart that are not as nearly all are; None for another condition."""
    return _NOT_PLAIN.get(part) if isinstance(part, InValues) else None


def _count(session: Session, tenant_id: UUID, condition: Condition, *more: Any) -> int:
    asked = select(func.count()).select_from(Run).where(*_of(tenant_id, condition), *more)
    return session.scalars(asked).one()


def _count_by_steps(tenant_id: UUID, condition: Condition) -> Select[int]:
    """How many runs have such a step: an index has those of a few states in the runs' order."""
    which = (Step.tenant_id == tenant_id, compiler.compile_condition(condition, STEP_FIELDS))
    return select(func.count()).select_from(select(Step.run_id).where(*which).distinct().subquery())


def _of(tenant_id: UUID, condition: Condition) -> tuple[Any, ...]:
    told = (compiler.compile_condition(part, RUN_FIELDS) for part in parts_of(condition))
    return (Run.tenant_id == tenant_id, *told)


def _measure(measure: Measure, value: Value | None) -> Any:
    if measure == Measure.COUNT or value is None:
        return func.count()
    column = compiler.compile_field(value, RUN_FIELDS)
    return func.min(column) if measure == Measure.MIN else func.max(column)


@cache
def _written(shown: FieldSelection, *, of_steps: bool = False) -> str:
    return compiler.compile_value(shown.values, shown.which, of_steps=of_steps)
