"""What is asked of Postgres while something is done."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from flask.testing import FlaskClient
from sqlalchemy import event


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
