"""Loaded by workers as a step module: cuts connections after COMMIT, before its response.

While the file CUT_COMMITS_WHILE exists, every third commit of a child is executed, and its
connection closed before the response is read; a byte is appended to the file. That is the worst
moment of a crash of Postgres or the network.
"""

import os
from contextlib import suppress
from itertools import count
from pathlib import Path

import psycopg2
from sqlalchemy import Connection, event

from workers.app import database

_ENABLED = Path(os.environ["CUT_COMMITS_WHILE"])
_PARENT = os.getpid()
_COMMITS = count(1)


def _cut(connection: Connection) -> None:
    if os.getpid() == _PARENT or not _ENABLED.exists() or next(_COMMITS) % 3:
        return
    cut = connection.connection.dbapi_connection  # COMMIT was executed already
    admin = psycopg2.connect(cut.dsn)  # type: ignore[union-attr]
    with admin.cursor() as cursor:
        cursor.execute("SELECT pg_terminate_backend(%s, 5000)", (cut.info.backend_pid,))  # type: ignore[union-attr]
    admin.close()
    cut.close()  # type: ignore[union-attr]
    with suppress(FileNotFoundError):
        file = os.open(_ENABLED, os.O_WRONLY | os.O_APPEND)
        os.write(file, b".")
        os.close(file)


event.listen(database.engine, "commit", _cut)
