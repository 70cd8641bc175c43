"""Lets a child of a prefork pool end before it takes another task."""

import sys
from collections.abc import Callable
from typing import Any

from billiard.pool import EX_RECYCLE
from celery.concurrency import asynpool

from workers.isolation import host


class Worker(asynpool.Worker):
    """A child that ends when a step left something behind; the pool starts another one."""

    def on_loop_start(self, pid: int) -> None:
        """Ask before each task."""
        wait_for_job: Callable[..., Any] = self.wait_for_job  # type: ignore[has-type]

        def wait_unless_replaced(*args: Any, **options: Any) -> Any:
            if not host.current.is_as_new():
                sys.exit(EX_RECYCLE)
            return wait_for_job(*args, **options)

        self.wait_for_job = wait_unless_replaced
        super().on_loop_start(pid)


def replace_children_after_use() -> None:
    """Make pools use this class."""
    asynpool.AsynPool.Worker = Worker
