"""Gunicorn's configuration for the API: one process in which every request is a greenlet.

Requests wait: for Postgres, for a run to end, for the next event of a stream. A thread for each of
a thousand open streams costs memory and slows ordinary requests; a separate process for streams
would need another port, while clients of the contracts have one address. A waiting greenlet costs
neither; psycopg2 waits through gevent.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from gevent import Timeout, getcurrent, kill
from gunicorn.workers.ggevent import GeventWorker

from config.settings import Settings

_settings = Settings.from_env()

# Seconds without a byte from Postgres, which waits for a lock 15 s at most. libpq's own timeout has
# no effect on a wait callback.
_CONNECT_TIMEOUT, _STATEMENT_TIMEOUT = 5.0, 20.0


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


worker_class = IdleClosingWorker
workers = 1
worker_connections = _settings.streams + 500  # streams, and other connections
timeout = 120  # without a heartbeat, which waiting requests do not block
graceful_timeout = 30
keepalive = 75  # longer than polling intervals and a proxy's 60 s
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
