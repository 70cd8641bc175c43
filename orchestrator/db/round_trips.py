"""BEGIN travels with the first statement of a transaction, COMMIT with the last ones.

psycopg2 sends each of the two by itself, which made four of the twelve journeys to Postgres and
back that a step cost. So our connections are left in autocommit mode, and both are said here.
"""

from typing import Any

from psycopg2.extensions import TRANSACTION_STATUS_IDLE
from sqlalchemy import Connection, Engine, event

# In a connection's `info`: whether this is about it, what its next statement is sent behind, and
# what goes before COMMIT.
_OURS, _FIRST, _LAST = "ours", "first", "last"
_COMMIT = "COMMIT"


def piggyback_begin_commit(engine: Engine) -> None:
    """Spare the engine's transactions two journeys; one that says nothing makes none."""
    event.listen(engine, "connect", _leave_alone)
    event.listen(engine, "begin", _begin)
    event.listen(engine, "before_cursor_execute", _say_begin, retval=True)
    event.listen(engine, "commit", _commit)
    event.listen(engine, "rollback", _rollback)
    event.listen(engine, "reset", _reset)


def autocommit(engine: Engine) -> None:
    """Let each statement on the engine's connections be a transaction of its own."""
    event.listen(engine, "connect", _leave_alone)


def prepend(connection: Connection, sql: str) -> None:
    """Say something right after BEGIN, before the transaction's first statement."""
    if (first := connection.info.get(_FIRST)) is not None:
        connection.info[_FIRST] = f"{first}{sql}; "
    else:
        connection.exec_driver_sql(sql)


def append_to_commit(connection: Connection, sql: str, values: tuple[Any, ...]) -> None:
    """Execute the last statement of a transaction when it commits; of a part of one, now."""
    if connection.in_nested_transaction() or not connection.info.get(_OURS):
        connection.exec_driver_sql(sql, values)
    else:
        connection.info[_LAST] = sql, values


def is_commit(statement: str) -> bool:
    """Whether a transaction ends well with this."""
    return statement.endswith(_COMMIT)


def _leave_alone(connection: Any, _: Any) -> None:
    connection.autocommit = True


def _begin(connection: Connection) -> None:
    ours = connection.get_execution_options().get("isolation_level") != "AUTOCOMMIT"
    connection.info[_OURS] = ours
    connection.info.pop(_LAST, None)  # of a transaction that was rolled back before it began
    if ours:
        psycopg2: Any = connection.connection.dbapi_connection
        if not psycopg2.autocommit:  # somebody has had it for something else
            psycopg2.autocommit = True
        connection.info[_FIRST] = "BEGIN; "


def _say_begin(
    connection: Connection, cursor: Any, statement: str, values: Any, context: Any, many: bool
) -> tuple[str, Any]:
    first = connection.info.pop(_FIRST, "")
    if first and many:
        cursor.execute(first)
        return statement, values
    return f"{first}{statement}", values


def _commit(connection: Connection) -> None:
    sql, values = connection.info.pop(_LAST, ("", ()))
    if sql:
        connection.exec_driver_sql(f"{sql}; {_COMMIT}", values)
    elif _has_begun(connection):
        connection.exec_driver_sql(_COMMIT)


def _rollback(connection: Connection) -> None:
    if not connection.invalidated and _has_begun(connection):
        connection.info.pop(_LAST, None)
        connection.exec_driver_sql("ROLLBACK")


def _has_begun(connection: Connection) -> bool:
    """Whether Postgres knows of the transaction."""
    unsaid = connection.info.pop(_FIRST, None) is not None
    return not unsaid and bool(connection.info.get(_OURS))


def _reset(connection: Any, record: Any, state: Any) -> None:
    """Leave nothing open on a connection that somebody has let go in the middle."""
    record.info.pop(_FIRST, None)
    record.info.pop(_LAST, None)
    if connection.info.transaction_status != TRANSACTION_STATUS_IDLE:
        with connection.cursor() as cursor:
            cursor.execute("ROLLBACK")
