"""Status reports of a worker, every few seconds, from its parent process.

They have a thread and connections of their own, so that a slow report delays no heartbeat.
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

from orchestrator.broker.drops import drops
from orchestrator.monitoring import workers
from orchestrator.monitoring.workers import WorkerReport
from workers.app import app, database, registry, settings
from workers.draining import DrainStep, draining
from workers.pool_size import pool_size

_VERSIONS = {
    "orchestrator": version("orchestrator"),
    "python": platform.python_version(),
    "celery": version("celery"),
}

_log = logging.getLogger(__name__)


class StatusReporter:
    """Reports a worker until it ends, and then removes its row."""

    def __init__(self, worker: Any) -> None:
        self._worker = worker
        self._disk = _existing(settings.data_dir)
        self._draining = False
        self._deregistered = False
        self._has_started = False  # whether that is recorded
        self._wake: queue.SimpleQueue[None] = queue.SimpleQueue()  # safe to use in a signal handler
        self._writing = threading.Lock()  # no report may follow the removal

    def run(self) -> None:
        """Report until the process ends; errors of Postgres are logged."""
        psutil.cpu_percent()  # the next call measures from here
        while not self._deregistered:
            try:
                self._report()
            except SQLAlchemyError as error:
                _log.warning("status report failed", extra={"error": str(error)})
            except Exception:  # e.g. psutil on an unusual host
                _log.exception("status report failed")
            with suppress(queue.Empty):
                self._wake.get(timeout=workers.REPORT_INTERVAL.total_seconds())

    def announce_drain(self, **_: Any) -> None:
        """The worker shuts down and waits for its children: report it as draining at once."""
        self._draining = True
        self._wake.put(None)

    def deregister(self, **_: Any) -> None:
        """Remove the row after a clean shutdown."""
        self._deregistered = True
        if not self._writing.acquire(timeout=1):  # a report waits for Postgres, so would this
            return
        try:
            with database.transaction() as session:
                name, started_at = str(self._worker.hostname), self._worker.startup_time
                workers.remove_worker(session, name, os.getpid(), started_at)
        except SQLAlchemyError as error:
            _log.warning("worker not deregistered", extra={"error": str(error)})
        finally:
            self._writing.release()

    def _report(self) -> None:
        stopped = self._draining or draining.takes_nothing_new()
        report = WorkerReport(
            name=str(self._worker.hostname),
            host=socket.gethostname(),
            pid=os.getpid(),
            pool=_pool(self._worker.pool_cls),
            queues=draining.queues,
            capacity=int(getattr(self._worker.pool, "num_processes", self._worker.concurrency)),
            active=draining.running() if stopped else len(state.active_requests),
            handlers=registry.names(),
            draining=stopped,
            usage=_usage(self._disk)
            | {"dropped_messages": drops.total, "missing_processes": pool_size.missing},
            versions=_VERSIONS,
            started_at=self._worker.startup_time,
        )
        with self._writing:
            if not self._deregistered:
                with database.transaction() as session:
                    drain_in = workers.record_report(session, report)
                    if not self._has_started:
                        workers.end_start(session, report.name, report.queues)
                self._has_started = True
                draining.request_drain(drain_in)


class StatusReportStep(bootsteps.StartStopStep):
    """Starts the reports once the pool and the queues are known."""

    requires = ("celery.worker.components:Pool", DrainStep)

    def start(self, parent: Any) -> None:
        """Start the thread."""
        reporter = StatusReporter(parent)
        signals.worker_shutting_down.connect(reporter.announce_drain, weak=False)
        signals.worker_shutdown.connect(reporter.deregister, weak=False)
        threading.Thread(target=reporter.run, name="status-reports", daemon=True).start()


def _pool(kind: type) -> str:
    """The name of a pool class as `--pool` takes it."""
    path = f"{kind.__module__}:{kind.__qualname__}"
    return next((word for word, each in ALIASES.items() if each == path), path)


def _usage(folder: Path) -> dict[str, Any]:
    """CPU, memory and disk of the host; memory and disk in bytes."""
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
    """The folder, or its nearest parent that exists."""
    whole = folder.absolute()
    return next(each for each in (whole, *whole.parents) if each.exists())


app.steps["worker"].add(StatusReportStep)
