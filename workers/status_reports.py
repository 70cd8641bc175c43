"""What a worker says about itself: every few seconds, from its parent process.

It has a thread and connections of its own, so that a report that waits delays no heartbeat.
"""

import logging
import os
import platform
import queue
import socket
import threading
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil
from celery import bootsteps, signals
from celery.concurrency import ALIASES
from celery.worker import state
from sqlalchemy.exc import SQLAlchemyError

from orchestrator.monitoring import workers
from orchestrator.monitoring.workers import WorkerReport
from workers.app import app, claims, settings
from workers.draining import DrainStep, draining

_VERSIONS = {
    "orchestrator": version("orchestrator"),
    "python": platform.python_version(),
    "celery": version("celery"),
}

_log = logging.getLogger(__name__)


class StatusReporter:
    """Reports a worker until it ends, and then takes its leave."""

    def __init__(self, worker: Any) -> None:
        self._worker = worker
        self._disk = _existing(settings.data_dir)
        self._draining = False
        self._gone = False
        self._wake: queue.SimpleQueue[None] = queue.SimpleQueue()  # takes a signal at any moment
        self._writing = threading.Lock()  # no report may follow the leave

    def run(self) -> None:
        """Report for ever; Postgres may come and go meanwhile."""
        psutil.cpu_percent()  # the next call tells the use since this one
        while not self._gone:
            try:
                self._report()
            except SQLAlchemyError as error:
                _log.warning("report failed", extra={"error": str(error)})
            except Exception:  # whatever the host refuses to tell, the worker works
                _log.exception("report failed")
            with suppress(queue.Empty):
                self._wake.get(timeout=workers.REPORT_INTERVAL.total_seconds())

    def drain(self, **_: Any) -> None:
        """The worker was told to end, and still waits for what its children execute."""
        self._draining = True
        self._wake.put(None)

    def leave(self, **_: Any) -> None:
        """The worker ends in peace."""
        self._gone = True
        if not self._writing.acquire(timeout=1):  # a report waits for Postgres: so would this
            return
        try:
            with claims.transaction() as session:
                name, started_at = str(self._worker.hostname), self._worker.startup_time
                workers.remove_worker(session, name, os.getpid(), started_at)
        except SQLAlchemyError as error:
            _log.warning("leave failed", extra={"error": str(error)})
        finally:
            self._writing.release()

    def _report(self) -> None:
        empty_handed = self._draining or draining.is_empty_handed()
        said = WorkerReport(
            name=str(self._worker.hostname),
            host=socket.gethostname(),
            pid=os.getpid(),
            pool=_pool(self._worker.pool_cls),
            queues=draining.queues,
            capacity=int(getattr(self._worker.pool, "num_processes", self._worker.concurrency)),
            active=draining.running() if empty_handed else len(state.active_requests),
            draining=empty_handed,
            usage=_usage(self._disk),
            versions=_VERSIONS,
            started_at=self._worker.startup_time,
        )
        with self._writing:
            if not self._gone:
                with claims.transaction() as session:
                    drain_in = workers.record_report(session, said)
                draining.ask(drain_in)


class StatusReportStep(bootsteps.StartStopStep):
    """Begins to report when the worker's pool is there, and what it is there for is known."""

    requires = ("celery.worker.components:Pool", DrainStep)

    def start(self, parent: Any) -> None:
        """Start reporting."""
        here = StatusReporter(parent)
        signals.worker_shutting_down.connect(here.drain, weak=False)
        signals.worker_shutdown.connect(here.leave, weak=False)
        threading.Thread(target=here.run, name="presence", daemon=True).start()


def _pool(kind: type) -> str:
    """The word for it that `--pool` takes."""
    path = f"{kind.__module__}:{kind.__qualname__}"
    return next((word for word, each in ALIASES.items() if each == path), path)


def _usage(folder: Path) -> dict[str, Any]:
    """What the host has, and how much of it is taken; memory and disk in bytes."""
    memory, disk = psutil.virtual_memory(), psutil.disk_usage(str(folder))
    return {
        "cpus": psutil.cpu_count() or 1,
        "cpu_percent": psutil.cpu_percent(),
        "load": round(psutil.getloadavg()[0], 2),
        "memory_total": memory.total,
        "memory_used": memory.total - memory.available,
        "disk_total": disk.total,
        "disk_free": disk.free,
    }


def _existing(folder: Path) -> Path:
    """The folder, or the nearest one above it that is there."""
    whole = folder.absolute()
    return next(each for each in (whole, *whole.parents) if each.exists())


app.steps["worker"].add(StatusReportStep)
