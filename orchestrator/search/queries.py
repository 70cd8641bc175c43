"""Search runs by conditions: pages, counts, values and groups.

Only this package makes SQL of what a user wrote. Every text of a user is a bound parameter, fields
are looked up by name, and a statement that takes too long is the user's mistake.
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

from orchestrator.db import Row, lookups, statements
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
    Not,
    Or,
    Value,
    all_of,
    excludes,
    one_of,
    parts_of,
)
from orchestrator.states import RunState

MAX_SECONDS = "5s"  # of one statement
_NAME = Field("workflow")
_MAX_ALTERNATIVES = 4  # that are counted one by one
_QUERY_CANCELED, _INVALID_REGEX = "57014", "2201B"  # SQLSTATE
# Conditions that nearly all runs meet, with the negation by the partial index `ix_runs_not_plain`.
_NOT_PLAIN = {
    InValues(Field("environment"), (PLAIN_RUN,)): or_(
        Run.environment < PLAIN_RUN, Run.environment > PLAIN_RUN
    ),
    InValues(Field("warnings"), (0,)): Run.warnings > 0,
}


class Measure(StrEnum):
    """A value that is computed of the members of a group."""

    COUNT = "count"
    MIN = "min"
    MAX = "max"


@dataclass(frozen=True)
class SearchOrder:
    """A value that a list is sorted by; NULLs come last, first in descending order."""

    value: Value
    descending: bool = False


@dataclass(frozen=True, eq=False)
class FieldSelection:
    """Values by name, and the rows to read them of; its statement is compiled once."""

    values: Mapping[str, Value]
    which: Condition = ALWAYS


@contextmanager
def with_time_limit(session: Session) -> Iterator[None]:
    """Limit the time of each statement of the transaction. Raises Invalid for one beyond it."""
    session.execute(text(f"SET LOCAL statement_timeout = '{MAX_SECONDS}'"))
    try:
        yield
    except DBAPIError as error:
        code = getattr(error.orig, "pgcode", None)
        if code == _QUERY_CANCELED:
            raise Invalid("the search takes too long; narrow it, by time or by name") from None
        if code == _INVALID_REGEX:
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
    """The ids of a page of runs in this order."""
    by = [compiler.compile_field(each.value, RUN_FIELDS) for each in order]
    ordered = [
        column.desc() if each.descending else column for each, column in zip(order, by, strict=True)
    ]
    last = Run.id.desc() if order and order[-1].descending else Run.id
    statement = select(Run.id).where(*_where(tenant_id, condition)).order_by(*ordered, last)
    return session.scalars(statement.limit(limit).offset(offset)).all()


def distinct_values(
    session: Session, run_ids: Sequence[UUID], selection: FieldSelection
) -> Sequence[Row]:
    """The values of these runs, in their order; the first column is the run's place, from 1 on."""
    return statements.rows(session, _compiled(selection), ids=list(run_ids)) if run_ids else ()


def steps_of_runs(
    session: Session, run_ids: Sequence[UUID], selection: FieldSelection
) -> Sequence[Row]:
    """The values of these runs' steps, by the run's place and in the workflow's order."""
    statement = _compiled(selection, of_steps=True)
    return statements.rows(session, statement, ids=list(run_ids)) if run_ids else ()


def count_runs(session: Session, tenant_id: UUID, condition: Condition) -> int:
    """The number of runs, by the tallies or a partial index where they have it."""
    parts = parts_of(condition)
    rare = [each for each in map(_rare_case, parts) if each is not None]
    most = all_of(*(part for part in parts if _rare_case(part) is None))
    total = _known_count(session, tenant_id, most)
    if total and rare:
        total -= lookups.count(session, Run, *_where(tenant_id, most), or_(*rare))
    if total is not None:
        return total
    added, subtracted = _sum(condition)
    if not added:
        return lookups.count(session, Run, *_where(tenant_id, condition))
    count = partial(count_runs, session, tenant_id)
    return sum(map(count, added)) - sum(map(count, subtracted))


def group_runs(
    session: Session,
    tenant_id: UUID,
    condition: Condition,
    by: Mapping[str, Value],
    measures: Mapping[str, tuple[Measure, Value | None]],
    *,
    limit: int,
) -> list[dict[str, Any]]:
    """The distinct values of runs, each with its measures.

    A count by a choice of a few words is one count per word, of which the tallies have most.
    """
    only_counts = all(measure == Measure.COUNT for measure, _ in measures.values())
    if len(by) == 1 and only_counts:
        ((name, value),) = by.items()
        words = _words(condition, value)
        if words is not None:
            counts = ((word, count_runs(session, tenant_id, each)) for word, each in words.items())
            return [{name: word, **dict.fromkeys(measures, n)} for word, n in counts if n][:limit]
    keys = [compiler.compile_field(each, RUN_FIELDS).label(name) for name, each in by.items()]
    values = [_measure(*each).label(name) for name, each in measures.items()]
    statement = select(*keys, *values).select_from(Run).where(*_where(tenant_id, condition))
    statement = statement.group_by(*keys).order_by(*keys).limit(limit)
    return [dict(row._mapping) for row in session.execute(statement)]


def _known_count(session: Session, tenant_id: UUID, condition: Condition) -> int | None:
    """The number of runs, if the tallies or an index have it; else None."""
    if isinstance(condition, AnyStep) and condition.of == "steps":
        return session.scalars(_count_by_steps(tenant_id, condition.condition)).one()
    tallied = _tallied(condition)
    if tallied is None:
        return None
    kind, states = tallied
    counts = run_counts.counts_by_state(session, tenant_id, kind)
    return sum(counts[state] for state in states)


def _tallied(condition: Condition) -> tuple[RunCountKey, tuple[RunState, ...]] | None:
    """The condition without `_NOT_PLAIN` parts as a kind and states of the tallies; else None."""
    states, workflow = set(RunState), None
    for part in parts_of(condition):
        if _rare_case(part) is not None:
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
    """Conditions whose counts are to be added and subtracted; both empty if that is not faster.

    Disjoint alternatives are counted by an index each, and a negation by the difference to the
    whole, if the tallies have that.
    """
    parts = parts_of(condition)
    compound = [
        part for part in parts if not isinstance(part, InValues | Compare) or _is_names(part)
    ]
    if len(compound) != 1:
        return (), ()
    (part,) = compound
    others = [each for each in parts if each is not part]
    inner = part.part if isinstance(part, Not) else part
    pieces = [all_of(*others, each) for each in _alternatives(inner)]
    if not isinstance(part, Not):
        return pieces, ()
    whole = all_of(*others)
    return ((whole,), pieces) if pieces and _tallied(whole) is not None else ((), ())


def _is_names(part: Condition) -> bool:
    return isinstance(part, InValues) and part.value == _NAME and len(part.operands) > 1


def _alternatives(part: Condition) -> Sequence[Condition]:
    """A few disjoint conditions whose disjunction is this one; empty if there are none."""
    each: Sequence[Condition] = part.parts if isinstance(part, Or) else (part,)
    if isinstance(part, InValues) and _is_names(part):
        each = [InValues(_NAME, (name,)) for name in part.operands]
    simple = all(isinstance(inner, InValues | Compare) for one in each for inner in parts_of(one))
    few = len(each) <= _MAX_ALTERNATIVES
    return each if few and simple and all(excludes(*pair) for pair in combinations(each, 2)) else ()


def _words(condition: Condition, value: Value) -> Mapping[str, Condition] | None:
    """The condition for each word that the value can be, if the tallies have any of the counts."""
    if not isinstance(value, Choice):
        return None
    words: dict[str, Condition] = {}
    for _, each in value.branches:
        if not isinstance(each, str):
            return None
        words[each] = all_of(condition, one_of(value, [each]))
    return words if any(map(_tallied, words.values())) else None


def _rare_case(part: Condition) -> Any:
    """The negation of a condition that nearly all runs meet; None for any other condition."""
    return _NOT_PLAIN.get(part) if isinstance(part, InValues) else None


def _count_by_steps(tenant_id: UUID, condition: Condition) -> Select[int]:
    """The number of runs with such a step; for some states an index has them in the runs' order."""
    which = (Step.tenant_id == tenant_id, compiler.compile_condition(condition, STEP_FIELDS))
    return select(func.count()).select_from(select(Step.run_id).where(*which).distinct().subquery())


def _where(tenant_id: UUID, condition: Condition) -> list[Any]:
    compiled = (compiler.compile_condition(part, RUN_FIELDS) for part in parts_of(condition))
    return [Run.tenant_id == tenant_id, *compiled]


def _measure(measure: Measure, value: Value | None) -> Any:
    if measure == Measure.COUNT or value is None:
        return func.count()
    column = compiler.compile_field(value, RUN_FIELDS)
    return func.min(column) if measure == Measure.MIN else func.max(column)


@cache
def _compiled(selection: FieldSelection, *, of_steps: bool = False) -> str:
    return compiler.compile_value(selection.values, selection.which, of_steps=of_steps)
