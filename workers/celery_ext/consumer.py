"""A Celery consumer that reconnects to Redis within seconds."""

from functools import partial
from typing import Any

from celery.worker import consumer

_INTERVAL = 2.0  # seconds between two connection attempts


class PromptConsumer(consumer.Consumer):
    """Retries at a fixed interval; Celery's own backs off to 30 seconds without consuming."""

    def ensure_connected(self, conn: Any) -> Any:
        options = {
            "interval_start": _INTERVAL,
            "interval_step": 0,
            "interval_max": _INTERVAL,
        }
        conn.ensure_connection = partial(conn.ensure_connection, **options)
        return super().ensure_connected(conn)
