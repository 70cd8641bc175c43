"""BEGIN is sent with the first statement of a transaction, COMMIT with the last ones.

psycopg2 sends each of the two by itself, which made four of the twelve round trips that a step
cost. So our connections are in autocommit mode, and BEGIN and COMMIT are sent from here. So are the
settings of a transaction, which depends on nothing that an earlier one left in its session.
"""

from dataclasses import dataclass
from typing import Any

from psycopg2.extensions import TRANSACTION_STATUS_IDLE
from sqlalchemy import Connection, Engine, event

_COMMIT = "COMMIT"
_SETTINGS = "orchestrator_settings"  # the execution option of an engine


@dataclass
class ConnectionState:
    """What is known of one connection to Postgres, and what waits to be sent on it."""

    ours: bool = False  # whether BEGIN and COMMIT of this transaction are sent from here
    begin: str | None = None  # not sent yet: goes before the next statement
    at_commit: tuple[str, tuple[Any, ...]] | None = None  # goes before COMMIT, with parameters


def piggyback(engine: Engine, settings: str, *, transactions: bool = True) -> None:
    """Send the settings with each transaction, and save two round trips for it.

    One without a statement makes none. Without `transactions` each statement is one, with settings
    of its own, as it is on connections in autocommit mode.
    """

    def begin(connection: Connection) -> None:
        _begin(connection, settings)

    def send(
        connection: Connection, cursor: Any, statement: str, params: Any, context: Any, many: bool
    ) -> tuple[str, Any]:
        state = _state_of(connection)
        before, state.begin = state.begin or "", None
        if not state.ours:
            before = settings
        elif before and many:
            cursor.execute(before)
            before = ""
        return f"{before}{statement}", params

    engine.update_execution_options(**{_SETTINGS: settings})
    event.listen(engine, "before_cursor_execute", send, retval=True)
    if transactions:
        event.listen(engine, "begin", begin)
        event.listen(engine, "commit", _commit)
        event.listen(engine, "rollback", _rollback)
        event.listen(engine, "reset", _reset)


def settings_of(engine: Engine) -> str:
    """The statements that bring the settings of a transaction on this engine."""
    settings: str = engine.get_execution_options()[_SETTINGS]
    return settings


def prepend(connection: Connection, statement: str) -> None:
    """Execute a statement right after BEGIN, before the transaction's first statement."""
    state = _state_of(connection)
    if state.begin is None:
        connection.exec_driver_sql(statement)
    else:
        state.begin = f"{state.begin}{statement}; "


def append_to_commit(connection: Connection, statement: str, params: tuple[Any, ...]) -> None:
    """Execute the last statement of a transaction with COMMIT; in a nested one, now."""
    state = _state_of(connection)
    if connection.in_nested_transaction() or not state.ours:
        connection.exec_driver_sql(statement, params)
    else:
        state.at_commit = statement, params


def is_commit(statement: str) -> bool:
    """Whether a statement sent to Postgres ends a transaction with COMMIT."""
    return statement.endswith(_COMMIT)


def _begin(connection: Connection, settings: str) -> None:
    state = _state_of(connection)
    options = connection.get_execution_options()
    state.ours = options.get("isolation_level") != "AUTOCOMMIT"
    state.at_commit = None  # of a transaction that was rolled back before it began
    if state.ours:
        psycopg2: Any = connection.connection.dbapi_connection
        if not psycopg2.autocommit:  # changed by another user of the pooled connection
            psycopg2.autocommit = True
        state.begin = f"BEGIN; {settings}"


def _commit(connection: Connection) -> None:
    state = _state_of(connection)
    if state.at_commit is not None:
        (statement, params), state.at_commit = state.at_commit, None
        connection.exec_driver_sql(f"{statement}; {_COMMIT}", params)
    elif _has_begun(state):
        connection.exec_driver_sql(_COMMIT)


def _rollback(connection: Connection) -> None:
    if connection.invalidated:
        return
    state = _state_of(connection)
    if _has_begun(state):
        state.at_commit = None
        connection.exec_driver_sql("ROLLBACK")


def _has_begun(state: ConnectionState) -> bool:
    """Whether Postgres has received the BEGIN of this transaction."""
    unsent, state.begin = state.begin is not None, None
    return state.ours and not unsent


def _reset(connection: Any, record: Any, _: Any) -> None:
    """Roll back what was left open on a connection that returns to the pool."""
    state = _state_of(record)
    state.begin = state.at_commit = None
    if connection.info.transaction_status != TRANSACTION_STATUS_IDLE:
        with connection.cursor() as cursor:
            cursor.execute("ROLLBACK")


def _state_of(connection: Any) -> ConnectionState:
    """The state of a connection, or of its record in the pool; a new one after a reconnect."""
    state: ConnectionState = connection.info.setdefault("round_trips", ConnectionState())
    return state
