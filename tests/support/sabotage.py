"""Breaks a worker from inside, as a module of its steps.

It executes a command of Celery's remote control that no message can give a worker, once the file
`sabotage` in the worker's data directory names one.
"""

import json
import threading
import time
from types import SimpleNamespace
from typing import Any

from celery import signals
from celery.worker.control import Panel

from config.settings import Settings


@signals.worker_ready.connect
def _watch(sender: Any, **_: Any) -> None:
    threading.Thread(target=_await_order, args=(sender,), daemon=True).start()


def _await_order(consumer: Any) -> None:
    order = Settings.from_env().data_dir / "sabotage"
    while not order.exists():
        time.sleep(0.05)
    command, options = json.loads(order.read_text())
    order.unlink()
    state = SimpleNamespace(consumer=consumer, app=consumer.app)
    consumer.call_soon(Panel.data[command], state, **options)
