"""How gunicorn serves the API: one process in which every request is a greenlet.

Requests wait: for Postgres, for a run to end, for the next event of a stream. A thread for each of
a thousand open streams costs memory and takes turns with the ordinary requests; a process of its
own for streams would need a port of its own, while clients of the contracts know one address. A
greenlet that waits costs neither; psycopg2 waits through gevent.
"""

from typing import Any

from config.settings import Settings

_settings = Settings.from_env()

# Seconds in which Postgres must say something: to who connects, and to a statement, which waits
# for a lock 15 s at most. libpq's own limit is not kept by who waits for it like this.
_CONNECTED, _ANSWERED = 5.0, 20.0

worker_class = "gevent"
workers = 1
worker_connections = _settings.streams + 500  # streams, and what else may be open beside them
timeout = 120  # a worker that does not answer for so long is replaced; a waiting request does
graceful_timeout = 30
keepalive = 2  # a stop waits for idle connections so long; clients open new ones cheaply
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
