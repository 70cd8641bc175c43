"""Answers what `conditions` ask of runs: pages, how many, which values, and groups of them.

Nobody else makes SQL from what a user wrote. Every text of theirs is a bound parameter, fields are
looked up here by name, and a statement that takes too long is the asker's mistake.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import Any
from uuid import UUID

from sqlalchemy import (
    Row,
    func,
    or_,
    select,
    text,
)
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from orchestrator import clauses, tallies
from orchestrator.clauses import OF_RUN, OF_STEP
from orchestrator.conditions import (
    ALWAYS,
    And,
    Choice,
    Condition,
    Field,
    In,
    Literal,
    Value,
    all_of,
    one_of,
)
from orchestrator.errors import Invalid
from orchestrator.models import PLAIN, Run, Step
from orchestrator.states import RunState
from orchestrator.tallies import Kind

LONGEST = "5s"  # that one statement may take
_TOO_LONG, _NO_PATTERN = "57014", "2201B"  # Postgres' codes
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
    columns = [clauses.column(each, OF_RUN).label(name) for name, each in shown.items()]
    by = [clauses.column(each.value, OF_RUN) for each in order]
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
    keys = {name: clauses.column(each, OF_RUN).label(name) for name, each in by.items()}
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
    columns = [clauses.column(each, OF_STEP).label(name) for name, each in shown.items()]
    asked = select(Step.run_id, *columns).where(
        Step.run_id.in_(run_ids), clauses.clause(condition, OF_STEP)
    )
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
    return (Run.tenant_id == tenant_id, *(clauses.clause(part, OF_RUN) for part in parts))


def _measure(measure: Measure, value: Value | None) -> Any:
    if measure == Measure.COUNT or value is None:
        return func.count()
    column = clauses.column(value, OF_RUN)
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
