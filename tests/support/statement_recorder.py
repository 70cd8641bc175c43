"""Statements that are sent to Postgres, and transactions that wait for locks."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from flask.testing import FlaskClient
from sqlalchemy import Engine, event, text

_WAIT = """
    SELECT count(*) FROM pg_stat_activity
    WHERE datname = current_database() AND wait_event_type = 'Lock'
"""


def wait_for_locks(engine: Engine) -> int:
    """The number of transactions that wait for a lock now."""
    with engine.connect() as connection:
        return int(connection.scalar(text(_WAIT)) or 0)


@contextmanager
def recorded_statements(client: FlaskClient) -> Iterator[list[str]]:
    """The statements of the API's views."""
    engine = client.application.extensions["orchestrator"].database.engine
    statements: list[str] = []

    def record(*args: Any) -> None:
        statements.append(args[2])

    event.listen(engine, "before_cursor_execute", record)
    try:
        yield statements
    finally:
        event.remove(engine, "before_cursor_execute", record)
