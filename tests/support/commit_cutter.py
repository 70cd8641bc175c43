"""Loaded by workers as a step module: cuts connections after COMMIT, before its response.

While the file CUT_COMMITS_WHILE exists, every third commit of a child is executed, and its
connection closed before the response is read; a byte is appended to the file. That is the worst
moment of a crash of Postgres or the network.
"""

import os
from contextlib import suppress
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any

import psycopg2
from psycopg2 import extensions
from sqlalchemy import event

from orchestrator.db.round_trips import is_commit
from workers.app import database

_ENABLED = Path(os.environ["CUT_COMMITS_WHILE"])
_PARENT = os.getpid()
_COMMITS = count(1)
_CALLS = ("claim_step(", "finish_and_read(")  # each is a transaction of its own


class _Connection(extensions.connection):
    def cursor(self, *args: Any, cursor_factory: Any = extensions.cursor, **options: Any) -> Any:
        return super().cursor(*args, cursor_factory=_cut(cursor_factory), **options)


@cache
def _cut(factory: Any) -> Any:
    """A class of cursors that cut their connections."""

    class _Cursor(factory):  # type: ignore[misc]
        def execute(self, query: str, params: Any = None) -> None:
            super().execute(query, params)
            if (is_commit(query) or any(name in query for name in _CALLS)) and _is_due():
                _close(self.connection)
                raise psycopg2.OperationalError("server closed the connection unexpectedly")

    return _Cursor


def _is_due() -> bool:
    return os.getpid() != _PARENT and _ENABLED.exists() and not next(_COMMITS) % 3


def _close(connection: Any) -> None:
    admin = psycopg2.connect(connection.dsn)
    with admin.cursor() as cursor:
        cursor.execute("SELECT pg_terminate_backend(%s, 5000)", (connection.info.backend_pid,))
    admin.close()
    connection.close()
    with suppress(FileNotFoundError):
        file = os.open(_ENABLED, os.O_WRONLY | os.O_APPEND)
        os.write(file, b".")
        os.close(file)


@event.listens_for(database.engine, "do_connect")
def _use_these(_: Any, __: Any, ___: Any, options: dict[str, Any]) -> None:
    options["connection_factory"] = _Connection
