"""Search runs by conditions: pages, counts, values and groups.

Only this package makes SQL of what a user wrote. Every text of a user is a bound parameter, fields
are looked up by name, and a statement that takes too long is the user's mistake.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import combinations
from typing import Any, Literal
from uuid import UUID

from sqlalchemy import func, or_, select, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import InstrumentedAttribute, Session

from orchestrator.db import Row, lookups, statements
from orchestrator.db.lookups import SortKey
from orchestrator.errors import Invalid
from orchestrator.models import PLAIN_RUN, Run, Step
from orchestrator.monitoring import run_counts
from orchestrator.monitoring.run_counts import RunCountKey
from orchestrator.search import compiler
from orchestrator.search.compiler import RUN_FIELDS, STEP_FIELDS, FieldSelection
from orchestrator.search.conditions import (
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
_NOT_PLAIN: Mapping[Condition, Any] = {
    InValues(Field("environment"), (PLAIN_RUN,)): or_(
        Run.environment < PLAIN_RUN, Run.environment > PLAIN_RUN
    ),
    InValues(Field("warnings"), (0,)): Run.warnings > 0,
}
SearchOrder = Sequence[tuple[Value, bool]]  # values to sort by, each with whether it descends


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
    order: SearchOrder,
    *,
    limit: int,
    offset: int = 0,
    after: Sequence[Any] | None = None,
) -> list[Sequence[Any]]:
    """The positions of a page of runs in this order, each with the run's id at its end.

    NULLs come last, in descending order, too. `after` is the position where the last page ended.
    A page by a nullable column, descending, is read in two parts: no index has both in this order.
    """
    keys = [_sort_key(*each) for each in order]
    keys.append(SortKey(Run.id, bool(order and order[-1][1]), nullable=False))
    where, first = _where(tenant_id, condition), keys[0]
    if not (first.descends and _is_nullable_column(first.column)):
        return _page(session, keys, where, limit, offset, after)
    rows: list[Sequence[Any]] = []
    if after is None or after[0] is not None:
        with_value = [*where, first.column.is_not(None)]
        never_null = [first._replace(nullable=False), *keys[1:]]
        rows = _page(session, never_null, with_value, limit, offset, after)
        if len(rows) < limit and offset:
            offset = max(0, offset - lookups.count(session, Run, *with_value))
        after = None
    if len(rows) < limit:
        without = [*where, first.column.is_(None)]
        position = None if after is None else after[1:]
        rest = _page(session, keys[1:], without, limit - len(rows), offset, position)
        rows += [(None, *row) for row in rest]
    return rows


def _page(
    session: Session,
    keys: Sequence[SortKey],
    where: Sequence[Any],
    limit: int,
    offset: int,
    after: Sequence[Any] | None,
) -> list[Sequence[Any]]:
    statement = select(*(key.column for key in keys)).where(*where)
    if after is not None:
        statement = statement.where(lookups.is_after(keys, after))
    statement = statement.order_by(*(key.clause() for key in keys))
    return list(session.execute(statement.limit(limit).offset(offset)))


def _sort_key(value: Value, descends: bool) -> SortKey:
    column = compiler.compile_field(value, RUN_FIELDS)
    is_column = isinstance(column, InstrumentedAttribute)
    # An index has a column that is never NULL in this order, but not with NULLS LAST.
    return SortKey(column, descends, nullable=not is_column or _is_nullable_column(column))


def _is_nullable_column(value: Any) -> bool:
    return isinstance(value, InstrumentedAttribute) and value.property.columns[0].nullable


def values_of_runs(
    session: Session, run_ids: Sequence[UUID], selection: FieldSelection
) -> Sequence[Row]:
    """The values of these runs or of their steps, by the run's place, which is the first column."""
    return statements.rows(session, selection.statement, ids=list(run_ids)) if run_ids else ()


def count_runs(session: Session, tenant_id: UUID, condition: Condition) -> int:
    """The number of runs, by the tallies or a partial index where they have it."""
    parts = parts_of(condition)
    rare = [_NOT_PLAIN[part] for part in parts if part in _NOT_PLAIN]
    most = all_of(*(part for part in parts if part not in _NOT_PLAIN))
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
    extremes: Mapping[str, tuple[Literal["min", "max"], Value]],
    *,
    limit: int,
) -> list[dict[str, Any]]:
    """The distinct values of runs, each with its `count` and with the extremes of other values.

    A count by a choice of a few words is one count per word, of which the tallies have most.
    """
    if len(by) == 1 and not extremes:
        ((name, value),) = by.items()
        words = _words(condition, value)
        if words is not None:
            counts = ((word, count_runs(session, tenant_id, each)) for word, each in words.items())
            return [{name: word, "count": n} for word, n in counts if n][:limit]
    keys = [compiler.compile_field(each, RUN_FIELDS).label(name) for name, each in by.items()]
    values = [
        getattr(func, extreme)(compiler.compile_field(value, RUN_FIELDS)).label(name)
        for name, (extreme, value) in extremes.items()
    ]
    count = func.count().label("count")
    statement = select(*keys, count, *values).select_from(Run).where(*_where(tenant_id, condition))
    statement = statement.group_by(*keys).order_by(*keys).limit(limit)
    return [dict(row._mapping) for row in session.execute(statement)]


def _known_count(session: Session, tenant_id: UUID, condition: Condition) -> int | None:
    """The number of runs, if the tallies or an index have it; else None."""
    if isinstance(condition, AnyStep) and condition.of == "steps":
        # For some states an index has the steps in the runs' order.
        is_so = compiler.compile_condition(condition.condition, STEP_FIELDS)
        with_step = (
            select(Step.run_id).where(Step.tenant_id == tenant_id, is_so).distinct().subquery()
        )
        return session.scalars(select(func.count()).select_from(with_step)).one()
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
        match part:
            case InValues(Field("state"), operands):
                states &= set(operands)
            case InValues(Field("workflow"), (name,)) if workflow is None:
                workflow = name
            case _ if part not in _NOT_PLAIN:
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
    match part:
        case Or(each):
            pass
        case InValues(Field("workflow"), names):
            each = tuple(InValues(_NAME, (name,)) for name in names)
        case _:
            each = (part,)
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


def _where(tenant_id: UUID, condition: Condition) -> list[Any]:
    compiled = (compiler.compile_condition(part, RUN_FIELDS) for part in parts_of(condition))
    return [Run.tenant_id == tenant_id, *compiled]
