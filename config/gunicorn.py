"""Gunicorn's configuration for the API: processes in which every request is a greenlet.

Requests wait: for Postgres, for a run to end, for the next event of a stream. A thread for each of
a thousand open streams costs memory and slows ordinary requests; a separate process for streams
would need another port, while clients of the contracts have one address. A waiting greenlet costs
neither; psycopg2 waits through gevent. Each process does everything, and shares what the master
imported; it accepts connections of the master's port, which outlives it.
"""

import json
import socket
import warnings
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import gevent
from gevent import monkey
from gunicorn import util
from gunicorn.http import message
from gunicorn.workers import ggevent
from gunicorn.workers.ggevent import GeventWorker

from config.balance import Balance, BalancedServer
from config.connections import Connections, Patience, allow_files
from config.http_statuses import TITLES, code_of
from config.response_headers import DEFAULT_HEADERS
from config.settings import Settings

_settings = Settings.from_env()
_streams = _settings.of_one_process(_settings.streams)

# Seconds without a byte from Postgres, which waits for a lock 15 s at most. libpq's own timeout has
# no effect on a wait callback.
_CONNECT_TIMEOUT, _STATEMENT_TIMEOUT = 5.0, 20.0
_OTHERS = 1000  # connections of one process besides streams
_SPARE_FILES = 200  # open files that are no client's; connections that are being closed
_MAX_HEAD = 1024 * 1024  # bytes, more than gunicorn reads

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
    """Bounds what clients can delay; closes idle connections at shutdown.

    Gunicorn has no deadlines, accepts nobody while its pool is full, and would wait at shutdown
    for the keep-alive of idle connections, then kill.
    """

    place = 0  # among the processes

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        patience = Patience(
            request=_settings.request_timeout.total_seconds(),
            idle=_settings.idle_timeout.total_seconds(),
            keepalive=self.cfg.keepalive,
            rest=_settings.max_body + _MAX_HEAD,
        )
        limit = min(_streams + _OTHERS, allow_files(worker_connections) - _SPARE_FILES)
        self._connections = Connections(limit, patience)

    @classmethod
    def setup(cls) -> None:
        """Patch for gevent in the master, before it imports the application.

        But for what it waits for its processes with: gevent would tell it of their end only while
        the hub runs.
        """
        monkey.patch_all(os=False, signal=False)

    def init_process(self) -> None:
        """Begin, in the new process."""
        _balance.enter(self.place)
        super().init_process()

    def patch(self) -> None:
        """Patch the rest in the process."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", monkey.MonkeyPatchWarning)  # that it is the second time
            super().patch()

    def timeout_ctx(self) -> AbstractContextManager[None]:
        """No timeout for a request's head: a connection has its own."""
        return nullcontext()

    def handle(self, listener: Any, client: Any, addr: Any) -> None:
        """Serve a client."""
        connection = self._connections.open(client, addr)
        _balance.update(self._connections.count)
        try:
            super().handle(listener, connection, addr)
        finally:
            self._connections.close(connection)
            _balance.update(self._connections.count)

    def handle_request(self, listener_name: Any, req: Any, sock: Any, addr: Any) -> Any:
        """Serve one request, after the others that are ready: a client may send many at once."""
        gevent.sleep(0)
        sock.in_request, sock.end_after_answer = True, req.force_close
        return super().handle_request(listener_name, req, sock, addr)

    def end_request(self, req: Any, environ: dict[str, Any]) -> None:
        """The answer to a request is complete."""
        if (sock := environ.get("gunicorn.socket")) is not None:
            reader = req.body.reader
            left = getattr(reader, "length", 0) or getattr(reader, "parser", None)
            key = environ.get("orchestrator.key")
            self._connections.end_request(sock, key, leaves_body=bool(left))

    def notify(self) -> None:
        """Called each second, also while the worker finishes its last requests."""
        super().notify()
        if not self.alive:
            self._connections.close_idle()


def _write_problem(connected: socket.socket, code: int, _: str, detail: str) -> None:
    """Answer a request that never reaches the application as the application answers errors."""
    name, title = code_of(code), TITLES[code]
    body = {
        "type": f"urn:orchestrator:problem:{name}",
        "title": title,
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
    lines = [f"HTTP/1.1 {code} {title}", *map(": ".join, headers.items()), "", ""]
    with gevent.Timeout(_LINGER, False):
        connected.sendall("\r\n".join(lines).encode() + content)
        # What is unread when a connection is closed resets it, and the client misses the answer.
        connected.shutdown(socket.SHUT_WR)
        for _count in range(_MAX_UNREAD // 65536):
            if not connected.recv(65536):
                return


util.write_error = _write_problem  # gunicorn's own writes HTML, and has no setting
worker_class = IdleClosingWorker
workers = _settings.processes_of_api()
_balance = BalancedServer.balance = Balance(workers)
ggevent.StreamServer = BalancedServer  # there is no setting
preload_app = True
control_socket_disable = True  # its thread in the master would be forked
worker_connections = _streams + _OTHERS + _SPARE_FILES  # the worker's own limit is lower
sendfile = False  # it would wait for a client without a deadline
timeout = 120  # without a heartbeat, which waiting requests do not block
graceful_timeout = 30
keepalive = 75  # longer than polling intervals and a proxy's 60 s
# Bytes of method and address: OpenDataDSL's queries have 64 KiB. gunicorn takes no more than 8 KiB.
limit_request_line = message.MAX_REQUEST_LINE = 66 * 1024
accesslog = None  # a line for each request costs more than the request
errorlog = "-"
loglevel = "warning"


def post_request(worker: Any, req: Any, environ: dict[str, Any], _resp: Any) -> None:
    """Tell the worker: gunicorn has the environment of a request only here."""
    worker.end_request(req, environ)


def pre_fork(server: Any, worker: Any) -> None:
    """Give the process a place among the others."""
    worker.place = _balance.free_place({each.place for each in server.WORKERS.values()})


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
