"""How the API waits for Postgres, in a process as gunicorn makes it."""

import subprocess
import sys

from tests.conftest import Services

# It listens, and that is all that is ever heard of it.
_SILENT = """
from gevent import monkey
monkey.patch_all()
import socket, time
from config import gunicorn
from orchestrator.db import Database, is_away, make_engine
from sqlalchemy.exc import OperationalError

gunicorn._CONNECTED, gunicorn._ANSWERED = 0.5, 0.5
gunicorn.post_fork(None, None)
with socket.socket() as silent:
    silent.bind(("127.0.0.1", 0))
    silent.listen()
    there = f"postgresql+psycopg2://nobody@127.0.0.1:{silent.getsockname()[1]}/nothing"
    begun = time.monotonic()
    try:
        make_engine(there).connect()
    except OperationalError as error:
        assert is_away(error)
    else:
        raise AssertionError("it connected")
    assert time.monotonic() - begun < 5
"""
_SLOW = """
from gevent import monkey
monkey.patch_all()
import sys
from config import gunicorn
from orchestrator.db import is_away, make_engine
from sqlalchemy.exc import OperationalError

gunicorn._ANSWERED = 0.5
gunicorn.post_fork(None, None)
with make_engine(sys.argv[1]).connect() as connection:
    connection.exec_driver_sql("SELECT pg_sleep(0.1)")
    try:
        connection.exec_driver_sql("SELECT pg_sleep(60)")
    except OperationalError as error:
        assert is_away(error)
        assert error.connection_invalidated
    else:
        raise AssertionError("it answered")
"""


def _run(program: str, *words: str) -> None:
    command = [sys.executable, "-c", program, *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


def test_a_postgres_that_listens_and_says_nothing_holds_nobody_up() -> None:
    _run(_SILENT)


def test_a_statement_that_nobody_answers_ends_with_its_connection(services: Services) -> None:
    _run(_SLOW, services.database_url)
