"""Timeouts for Postgres and keep-alive in a worker process of gunicorn."""

import http.client
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from config import gunicorn
from config.settings import Settings
from tests.conftest import Services
from tests.support.http_attacks import ServedApi, serve

# A server that accepts connections and never sends anything.
_SILENT = """
from gevent import monkey
monkey.patch_all()
import socket, time
from config import gunicorn
from orchestrator.db.database import Database
from orchestrator.db.engine import is_unavailable, make_engine
from sqlalchemy.exc import OperationalError

gunicorn._CONNECT_TIMEOUT, gunicorn._STATEMENT_TIMEOUT = 0.5, 0.5
gunicorn.post_fork(None, None)
with socket.socket() as silent:
    silent.bind(("127.0.0.1", 0))
    silent.listen()
    there = f"postgresql+psycopg2://nobody@127.0.0.1:{silent.getsockname()[1]}/nothing"
    start = time.monotonic()
    try:
        make_engine(there).connect()
    except OperationalError as error:
        assert is_unavailable(error)
    else:
        raise AssertionError("it connected")
    assert time.monotonic() - start < 5
"""
_SLOW = """
from gevent import monkey
monkey.patch_all()
import sys
from config import gunicorn
from orchestrator.db.engine import is_unavailable, make_engine
from sqlalchemy.exc import OperationalError

gunicorn._STATEMENT_TIMEOUT = 0.5
gunicorn.post_fork(None, None)
with make_engine(sys.argv[1]).connect() as connection:
    connection.exec_driver_sql("SELECT pg_sleep(0.1)")
    try:
        connection.exec_driver_sql("SELECT pg_sleep(60)")
    except OperationalError as error:
        assert is_unavailable(error)
        assert error.connection_invalidated
    else:
        raise AssertionError("it answered")
"""


def _run(program: str, *args: str) -> None:
    command = [sys.executable, "-c", program, *args]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


def test_a_postgres_that_listens_and_says_nothing_holds_nobody_up() -> None:
    _run(_SILENT)


def test_a_statement_that_nobody_answers_ends_with_its_connection(services: Services) -> None:
    _run(_SLOW, services.database_url)


@pytest.fixture
def api(settings: Settings) -> Iterator[ServedApi]:
    """The API under gunicorn."""
    with serve(settings) as served:
        yield served


def test_a_connection_is_kept_for_who_polls_and_ends_with_the_process(api: ServedApi) -> None:
    port, process = api.port, api.process
    assert gunicorn.keepalive == 75

    client = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    client.connect()
    client.auto_open = 0
    for pause in (0, 2.5):  # seconds; a client that polls every two seconds
        time.sleep(pause)
        client.request("GET", "/healthz")
        with client.getresponse() as answer:
            assert (answer.status, answer.read()) == (200, b'{"status":"ok"}\n')

    process.terminate()
    assert (
        client.sock.recv(1) == b""
    )  # closed long before the keep-alive of 75 s and the grace of 30 s
    assert process.wait(10) == 0
    client.close()
