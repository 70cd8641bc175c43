"""What is asked of Postgres while something is done."""

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
    """How many transactions do, at this moment."""
    with engine.connect() as connection:
        return int(connection.scalar(text(_WAIT)) or 0)


@contextmanager
def questions(client: FlaskClient) -> Iterator[list[str]]:
    """The statements of the API's views; not what each connection prepares once."""
    engine = client.application.extensions["orchestrator"].database.engine
    asked: list[str] = []

    def hear(*given: Any) -> None:
        if not given[2].startswith("PREPARE"):
            asked.append(given[2])

    event.listen(engine, "before_cursor_execute", hear)
    try:
        yield asked
    finally:
        event.remove(engine, "before_cursor_execute", hear)
