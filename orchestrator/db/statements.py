"""Statements that Postgres parses and plans once for each connection, not once for each step.

Planning took more time than executing for most of what a step costs. psycopg2 has no call for it,
so a statement is prepared by SQL the first time that a connection meets it. One with a long list is
not: a plan that is kept does not know how long the list is, and may read a table for each entry.
"""

import hashlib
import re
from collections.abc import Sequence
from functools import cache
from json import dumps
from typing import Any, NamedTuple

from sqlalchemy import Connection
from sqlalchemy.orm import Session

from orchestrator.db import Row, round_trips

_PARAMETER = re.compile(r"(?<!:):([a-z_]+)")
_FEW = 20  # entries of a list, up to which a plan that is kept is good


class _Statement(NamedTuple):
    name: str
    prepare: str
    execute: str
    parameters: tuple[str, ...]
    plain: str
    plain_parameters: tuple[str, ...]  # one for each place


def execute_with_next(session: Session, sql: str, values: dict[str, Any]) -> None:
    """Execute a statement right before the next one, and do not ask what it finds.

    The next one sees what the first has waited for, as if the two were sent one by one.
    """
    session.info.setdefault("ahead", []).append((_statement(sql), values))


def execute_at_commit(session: Session, sql: str, values: dict[str, Any]) -> None:
    """Execute a statement that gives no rows before the transaction ends, with others of its kind.

    One journey to Postgres and back takes longer than such a statement does.
    """
    session.info.setdefault("later", []).append((_statement(sql), values))


def execute_deferred(session: Session, *, commit: bool = False) -> None:
    """Send what was put off; `db` does so at the transaction's end, and lets it commit with that.

    One that is part of another transaction does not commit.
    """
    put_off = session.info.pop("later", [])
    if not put_off:
        return
    connection = session.connection()
    said, given = _said(connection, put_off)
    if commit:
        round_trips.append_to_commit(connection, said, given)
    else:
        connection.exec_driver_sql(said, given)


def execute(session: Session, sql: str, values: dict[str, Any]) -> Sequence[Row]:
    """Execute one statement with `:name` parameters and give its rows, if it has any."""
    connection = session.connection()
    before = session.info.pop("ahead", ())
    result = connection.exec_driver_sql(*_said(connection, [*before, (_statement(sql), values)]))
    return result.all() if result.returns_rows else ()


def _said(
    connection: Connection, statements: Sequence[tuple[_Statement, dict[str, Any]]]
) -> tuple[str, tuple[Any, ...]]:
    """Several statements as one text, with its parameters; all that are kept are prepared then."""
    texts: list[str] = []
    given: list[Any] = []
    for statement, values in statements:
        if any(isinstance(value, list) and len(value) > _FEW for value in values.values()):
            texts.append(statement.plain)
            given += [values[name] for name in statement.plain_parameters]
        else:
            _prepare(connection, statement)
            texts.append(statement.execute)
            given += [values[name] for name in statement.parameters]
    return "; ".join(texts), tuple(given)


def _prepare(connection: Connection, statement: _Statement) -> None:
    known: set[str] = connection.info.setdefault("prepared", set())
    if statement.name not in known:
        connection.exec_driver_sql(statement.prepare)
        known.add(statement.name)


@cache
def _statement(sql: str) -> _Statement:
    every = tuple(_PARAMETER.findall(sql))
    names = tuple(dict.fromkeys(every))
    places = {name: f"${at}" for at, name in enumerate(names, start=1)}
    doubled = sql.replace("%", "%%")  # the sign of psycopg2's own places
    numbered = _PARAMETER.sub(lambda found: places[found[1]], doubled)
    name = f"orchestrator_{hashlib.sha256(sql.encode()).hexdigest()[:24]}"
    arguments = f" ({', '.join(['%s'] * len(names))})" if names else ""
    return _Statement(
        name,
        f"PREPARE {name} AS {numbered}",
        f"EXECUTE {name}{arguments}",
        names,
        _PARAMETER.sub("%s", doubled),
        every,
    )


def rows(session: Session, sql: str, /, **values: Any) -> Sequence[Row]:
    """Execute one statement and give its rows."""
    return execute(session, sql, values)


def row(session: Session, sql: str, /, **values: Any) -> Row | None:
    """Execute one statement and give its first row, if there is one."""
    return next(iter(execute(session, sql, values)), None)


def execute_statement(session: Session, sql: str, /, **values: Any) -> None:
    """Execute one statement that gives no rows."""
    execute(session, sql, values)


def lock_ahead(session: Session, which: str, /, **values: Any) -> None:
    """Take the row lock of a run with the next statement, which sees what the lock protects."""
    execute_with_next(session, f"SELECT FROM runs WHERE {which} FOR UPDATE", values)


def execute_later(session: Session, sql: str, /, **values: Any) -> None:
    """Execute one statement that gives no rows by the end of the transaction."""
    execute_at_commit(session, sql, values)


def to_json(document: Any) -> str | None:
    """A value for a JSON column."""
    return None if document is None else dumps(document)


def try_advisory_lock(session: Session, purpose: str, *, when: str) -> bool:
    """Whether this transaction is now the only one for a purpose, and there is reason to be.

    Without the reason that `when` asks for, asking is all that happens.
    """
    lock = f"pg_try_advisory_xact_lock(hashtextextended('orchestrator.{purpose}', 0))"
    found = row(session, f"SELECT {lock} AS yes WHERE {when}")
    return found is not None and bool(found.yes)
