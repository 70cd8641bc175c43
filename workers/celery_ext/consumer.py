"""A Celery consumer that notices at once when it may take a message."""

from functools import partial
from typing import Any

from celery.worker import consumer

_AGAIN = 2.0  # seconds between two tries to reach Redis


class PromptConsumer(consumer.Consumer):
    """Reaches Redis soon after it is back; Celery's own would wait for up to 30 seconds, deaf."""

    def ensure_connected(self, conn: Any) -> Any:
        often = {"interval_start": _AGAIN, "interval_step": 0, "interval_max": _AGAIN}
        conn.ensure_connection = partial(conn.ensure_connection, **often)
        return super().ensure_connected(conn)
