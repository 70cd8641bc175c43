"""How gunicorn serves the API: one process in which every request is a greenlet.

Requests wait: for Postgres, for a run to end, for the next event of a stream. A thread for each of
a thousand open streams costs memory and takes turns with the ordinary requests; a process of its
own for streams would need a port of its own, while clients of the contracts know one address. A
greenlet that waits costs neither; psycopg2 waits through gevent.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from gevent import Timeout, getcurrent, kill
from gunicorn.workers.ggevent import GeventWorker

from config.settings import Settings

_settings = Settings.from_env()

# Seconds in which Postgres must say something: to who connects, and to a statement, which waits
# for a lock 15 s at most. libpq's own limit is not kept by who waits for it like this.
_CONNECTED, _ANSWERED = 5.0, 20.0


class IdleClosingWorker(GeventWorker):  # type: ignore[misc]
    """Closes the connections that wait for their next request when it is told to end.

    gunicorn would wait until their keep-alive is over, and kill them after the graceful timeout.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._idle: dict[Any, Timeout] = {}  # by greenlet, what ends its waiting

    @contextmanager
    def timeout_ctx(self) -> Iterator[None]:
        """Wait for a request, for as long as the keep-alive."""
        greenlet = getcurrent()
        with Timeout(self.cfg.keepalive, False) as timeout:
            self._idle[greenlet] = timeout
            try:
                yield
            finally:
                del self._idle[greenlet]

    def notify(self) -> None:
        """Called each second, also while the worker waits for its last requests."""
        super().notify()
        if not self.alive:
            for greenlet, timeout in list(self._idle.items()):
                kill(greenlet, timeout, block=False)


worker_class = IdleClosingWorker
workers = 1
worker_connections = _settings.streams + 500  # streams, and what else may be open beside them
timeout = 120  # a worker that does not answer for so long is replaced; a waiting request does
graceful_timeout = 30
keepalive = 75  # more than the pauses of clients that poll, and than a proxy's 60 s
accesslog = None  # a line for each request costs more than the request
errorlog = "-"
loglevel = "warning"


def post_fork(server: Any, worker: Any) -> None:
    """Let psycopg2 wait without holding up every other greenlet, and not for ever."""
    from gevent.socket import wait_read, wait_write
    from psycopg2 import OperationalError, extensions

    def wait(connection: Any) -> None:
        while (state := connection.poll()) != extensions.POLL_OK:
            is_open = connection.status in (extensions.STATUS_READY, extensions.STATUS_BEGIN)
            patience = _ANSWERED if is_open else _CONNECTED
            silence = OperationalError(f"timeout expired: no answer within {patience:.0f} s")
            wait_for = wait_read if state == extensions.POLL_READ else wait_write
            wait_for(connection.fileno(), timeout=patience, timeout_exc=silence)

    extensions.set_wait_callback(wait)
