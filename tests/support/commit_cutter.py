"""Loaded by workers as if it had steps: lets them lose the answers to their commits.

While the file that CUT_COMMITS_WHILE names is there, every third commit of a child is done, and
then its connection is cut before the answer is heard; the file gets a byte. That is what a crash of
Postgres, or of the network, looks like at its worst moment.
"""

import os
from contextlib import suppress
from itertools import count
from pathlib import Path

import psycopg2
from sqlalchemy import Connection, event

from workers.app import claims, database

_WHILE = Path(os.environ["CUT_COMMITS_WHILE"])
_PARENT = os.getpid()
_COMMITS = count(1)


def _cut(connection: Connection) -> None:
    if os.getpid() == _PARENT or not _WHILE.exists() or next(_COMMITS) % 3:
        return
    cut = connection.connection.dbapi_connection  # on which COMMIT was said already
    other = psycopg2.connect(cut.dsn)  # type: ignore[union-attr]
    with other.cursor() as cursor:
        cursor.execute("SELECT pg_terminate_backend(%s, 5000)", (cut.info.backend_pid,))  # type: ignore[union-attr]
    other.close()
    cut.close()  # type: ignore[union-attr]
    with suppress(FileNotFoundError):
        told = os.open(_WHILE, os.O_WRONLY | os.O_APPEND)
        os.write(told, b".")
        os.close(told)


for each in (claims, database):
    event.listen(each.engine, "commit", _cut)
