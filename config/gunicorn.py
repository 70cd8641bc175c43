"""Gunicorn's configuration for the API: one process in which every request is a greenlet.

Requests wait: for Postgres, for a run to end, for the next event of a stream. A thread for each of
a thousand open streams costs memory and slows ordinary requests; a separate process for streams
would need another port, while clients of the contracts have one address. A waiting greenlet costs
neither; psycopg2 waits through gevent.
"""

import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from typing import Any

from gevent import Timeout, getcurrent, kill
from gunicorn import util
from gunicorn.http import message
from gunicorn.workers.ggevent import GeventWorker

from config.response_headers import DEFAULT_HEADERS
from config.settings import Settings

_settings = Settings.from_env()

# Seconds without a byte from Postgres, which waits for a lock 15 s at most. libpq's own timeout has
# no effect on a wait callback.
_CONNECT_TIMEOUT, _STATEMENT_TIMEOUT = 5.0, 20.0

# Of requests that gunicorn refuses; of others it gives the reason.
_DETAILS = {
    414: "the address is too long; it has at most 64 KiB",
    417: "the only expectation that is met is `Expect: 100-continue`",
    431: "the headers are too large; there are at most 100, of 8,190 bytes each",
    500: "this is a mistake of ours",
}
_MAX_DETAIL = 500  # characters
_LINGER = 1.0  # seconds until the connection of a refused request is closed
_MAX_UNREAD = 4 * 1024 * 1024  # bytes that are still read from it


class IdleClosingWorker(GeventWorker):  # type: ignore[misc]
    """Closes idle connections at shutdown; gunicorn would wait for their keep-alive, then kill."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._idle: dict[Any, Timeout] = {}  # by greenlet: the timeout that ends its wait

    @contextmanager
    def timeout_ctx(self) -> Iterator[None]:
        """Wait for a request, as long as the keep-alive."""
        greenlet = getcurrent()
        with Timeout(self.cfg.keepalive, False) as timeout:
            self._idle[greenlet] = timeout
            try:
                yield
            finally:
                del self._idle[greenlet]

    def notify(self) -> None:
        """Called each second, also while the worker finishes its last requests."""
        super().notify()
        if not self.alive:
            for greenlet, timeout in list(self._idle.items()):
                kill(greenlet, timeout, block=False)


def _write_problem(connected: socket.socket, code: int, _: str, detail: str) -> None:
    """Answer a request that never reaches the application as the application answers errors."""
    status = HTTPStatus(code)
    name = status.name.lower()
    body = {
        "type": f"urn:orchestrator:problem:{name}",
        "title": status.phrase,
        "status": code,
        "code": name,
        "detail": (_DETAILS.get(code) or detail)[:_MAX_DETAIL],
    }
    content = json.dumps(body).encode()
    headers = {
        "Connection": "close",
        "Content-Type": "application/problem+json",
        "Content-Length": str(len(content)),
        **DEFAULT_HEADERS,
    }
    lines = [f"HTTP/1.1 {code} {status.phrase}", *map(": ".join, headers.items()), "", ""]
    with Timeout(_LINGER, False):
        connected.sendall("\r\n".join(lines).encode() + content)
        # What is unread when a connection is closed resets it, and the client misses the answer.
        connected.shutdown(socket.SHUT_WR)
        for _count in range(_MAX_UNREAD // 65536):
            if not connected.recv(65536):
                return


util.write_error = _write_problem  # gunicorn's own writes HTML, and has no setting
worker_class = IdleClosingWorker
workers = 1
worker_connections = _settings.streams + 500  # streams, and other connections
timeout = 120  # without a heartbeat, which waiting requests do not block
graceful_timeout = 30
keepalive = 75  # longer than polling intervals and a proxy's 60 s
# Bytes of method and address: OpenDataDSL's queries have 64 KiB. gunicorn takes no more than 8 KiB.
limit_request_line = message.MAX_REQUEST_LINE = 66 * 1024
accesslog = None  # a line for each request costs more than the request
errorlog = "-"
loglevel = "warning"


def post_fork(server: Any, worker: Any) -> None:
    """Have psycopg2 wait through gevent, with a timeout."""
    from gevent.socket import wait_read, wait_write
    from psycopg2 import OperationalError, extensions

    def wait(connection: Any) -> None:
        while (state := connection.poll()) != extensions.POLL_OK:
            is_open = connection.status in (extensions.STATUS_READY, extensions.STATUS_BEGIN)
            seconds = _STATEMENT_TIMEOUT if is_open else _CONNECT_TIMEOUT
            expired = OperationalError(f"timeout expired: no answer within {seconds:.0f} s")
            wait_for = wait_read if state == extensions.POLL_READ else wait_write
            wait_for(connection.fileno(), timeout=seconds, timeout_exc=expired)

    extensions.set_wait_callback(wait)
