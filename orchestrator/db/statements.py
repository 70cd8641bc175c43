"""Statements with `:name` parameters: those that belong together are sent in one round trip.

Each is planned when it is executed, for its values. One that is executed for each step or run and
takes longer to plan than to execute is a function in the database, whose plans Postgres keeps.
"""

import re
from collections.abc import Sequence
from functools import cache
from typing import Any

from sqlalchemy.orm import Session

from orchestrator.db import Row, round_trips
from orchestrator.db.autocommit import AnySession, Autocommit
from orchestrator.db.unit_of_work import Deferred, unit_of
from orchestrator.json_values import dump_json
from orchestrator.work_limits import in_turns

_PARAMETER = re.compile(r"(?<!:):([a-z_]+)")
_ROWS = 200  # of one result that are read at once


def rows(session: AnySession, statement: str, /, **params: Any) -> Sequence[Row]:
    """Execute a statement with `:name` parameters and return its rows, if it has any."""
    unit = unit_of(session)
    before, unit.before_next = unit.before_next, []
    text, values = _joined([*before, (statement, params)])
    if isinstance(session, Autocommit):
        return session.rows(text, values)
    result = session.connection().exec_driver_sql(text, values)
    if not result.returns_rows:
        return ()
    is_long = result.rowcount > _ROWS
    return list(in_turns(result.yield_per(_ROWS))) if is_long else result.all()


def row(session: AnySession, statement: str, /, **params: Any) -> Row | None:
    """Execute a statement and return its first row, if there is one."""
    return next(iter(rows(session, statement, **params)), None)


def execute(session: Session, statement: str, /, **params: Any) -> None:
    """Execute a statement whose rows do not matter."""
    rows(session, statement, **params)


def execute_at_commit(session: Session, statement: str, /, **params: Any) -> None:
    """Execute a statement that returns no rows when the transaction commits.

    It is sent with COMMIT and with others of its kind: a round trip takes longer than it does.
    """
    unit_of(session).at_commit.append((statement, params))


def exist(table: str, where: str, order: str) -> str:
    """SQL for whether there are such rows; `order` is the first column of their partial index.

    A bare EXISTS may be planned as a sequential scan when the planner expects many matches; the
    ORDER BY on the column of the partial index prevents that.
    """
    first = f"SELECT FROM {table} WHERE {where} ORDER BY {order} LIMIT 1"
    return f"EXISTS (SELECT FROM ({first}) first)"


def in_turn(column: str, rows: str, where: str) -> str:
    """SQL for the first `:limit` of the rows that are due: one of each tenant, then another one …

    So a tenant with very many rows does not delay the others. Random otherwise: processes that run
    it concurrently begin with different rows, and a row that fails each time hides no other one.
    Not all rows are sorted, which takes five times as long.
    """
    return f"""
        SELECT {column} FROM (
            SELECT {column}, row_number() OVER (PARTITION BY tenant_id ORDER BY random()) AS turn
            FROM (
                SELECT tenant_id, array_agg({column}) AS mine, CAST(
                    random() * greatest(count(*) - CAST(:limit AS int), 0) AS int) AS start
                FROM {rows} WHERE {where} GROUP BY tenant_id
            ) tenants, unnest(mine[start + 1 : start + CAST(:limit AS int)]) AS one({column})
        ) due GROUP BY {column} ORDER BY min(turn), random() LIMIT :limit
    """


def send_deferred(session: Session) -> None:
    """Send the statements deferred to the commit with the next statement instead."""
    unit = unit_of(session)
    unit.before_next += unit.at_commit
    unit.at_commit = []


def flush_deferred(session: Session) -> None:
    """Send the statements deferred to the commit together with COMMIT."""
    unit = unit_of(session)
    deferred, unit.at_commit = unit.at_commit, []
    if deferred:
        round_trips.append_to_commit(session.connection(), *_joined(deferred))


def to_json(document: Any) -> str | None:
    """A parameter for a JSON column."""
    return None if document is None else dump_json(document)


def try_advisory_lock(session: Session, purpose: str, *, when: str) -> bool:
    """Try to become the only transaction for a purpose; takes no lock unless `when` holds."""
    lock = f"pg_try_advisory_xact_lock(hashtextextended('orchestrator.{purpose}', 0))"
    locked = row(session, f"SELECT {lock} AS locked WHERE {when}")
    return locked is not None and bool(locked.locked)


def _joined(statements: Sequence[Deferred]) -> tuple[str, tuple[Any, ...]]:
    """Several statements as one text with its parameters."""
    texts, values = [], []
    for statement, params in statements:
        text, names = _with_placeholders(statement)
        texts.append(text)
        values += [params[name] for name in names]
    return "; ".join(texts), tuple(values)


@cache
def _with_placeholders(statement: str) -> tuple[str, Sequence[str]]:
    """The statement as psycopg2 takes it, and the name of the parameter of each placeholder."""
    escaped = statement.replace("%", "%%")  # psycopg2's placeholders begin with it
    return _PARAMETER.sub("%s", escaped), _PARAMETER.findall(statement)
