"""The scheduler process: runs the sweeps. Any number may run concurrently; there is no leader."""

import logging
import random
import signal
import sys
import time
from contextlib import suppress
from dataclasses import replace
from types import FrameType
from uuid import uuid4

from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from config import logging as logs
from config.settings import Settings
from orchestrator import audit
from orchestrator.access import secrets
from orchestrator.access.references import VaultMissing
from orchestrator.broker.client import Broker, make_app
from orchestrator.db import schema
from orchestrator.db.database import Database
from orchestrator.db.engine import is_unavailable, make_engine
from orchestrator.errors import Unavailable
from orchestrator.maintenance.checks import LiveCheck
from orchestrator.maintenance.sweeps import MAX_SECONDS, SWEEPS, SweepContext, due_sweeps
from orchestrator.monitoring import workers
from orchestrator.schedules import RunOptions
from workers.scheduler.deliverer import Deliverer

IDLE_PAUSE = 0.3  # seconds between passes when nothing moved: about three statements a second
LOCK_TIMEOUT = "500ms"  # of a sweep; it takes a row that is locked for longer in a later pass
BUSY_PAUSE = 0.02  # seconds between passes while rows move

_log = logging.getLogger(__name__)


class Scheduler:
    """Asks which sweeps are due, and runs them."""

    def __init__(self, settings: Settings) -> None:
        broker = Broker(make_app(settings.redis_url, publisher=True))
        engine = make_engine(
            settings.database_url,
            pool_size=2,
            name="orchestrator-scheduler",
            pre_ping=False,
            lock_timeout=LOCK_TIMEOUT,
        )
        self.database = Database(engine, broker.deliver)
        # A pool of its own: sweeps must not wait for connections of slow receivers.
        engine = make_engine(settings.database_url, pool_size=2, name="orchestrator-deliverer")
        outside = Database(engine, broker.deliver).acting(audit.sweep_actor("deliver"))
        self._deliverer = Deliverer(outside, settings, secrets.secret_key(settings))
        self._id = uuid4()
        self._ending = False  # a flag: setting an Event in a signal handler may deadlock
        self._lease = settings.lease.total_seconds()
        self._leases_count_from = 0.0  # monotonic time
        self._last_report = float("-inf")  # monotonic time
        # Checks wait for their first interval: the other sweeps clean up after an outage first.
        self._last_pass: dict[str, float] = {"check_live_runs": time.monotonic()}
        context = SweepContext(
            database=self.database,
            broker=broker,
            options=RunOptions(settings.window, settings.cancel_grace),
            check=LiveCheck(),
            deliver=self._deliverer.wake,
            leases_count=lambda: time.monotonic() > self._leases_count_from,
            seconds=MAX_SECONDS,
        )
        acting = {sweep.name: audit.sweep_actor(sweep.name) for sweep in SWEEPS}
        self._contexts = {
            name: replace(context, database=self.database.acting(actor))
            for name, actor in acting.items()
        }

    def run(self) -> None:
        """Run passes until `end` is called; survives outages of Postgres and Redis."""
        while not self._ending:
            try:
                self._report()
                pause = BUSY_PAUSE if self.sweep_once() else IDLE_PAUSE
            except SQLAlchemyError as error:
                self._excuse(error)
                pause = IDLE_PAUSE * random.uniform(1, 3)
            time.sleep(pause)
        self._deliverer.end()
        with suppress(SQLAlchemyError), self.database.transaction() as session:
            workers.remove_scheduler(session, self._id)

    def _report(self) -> None:
        """Report from time to time that this scheduler runs."""
        now = time.monotonic()
        if now - self._last_report > workers.REPORT_INTERVAL.total_seconds():
            with self.database.transaction() as session:
                workers.report_scheduler(session, self._id)
            self._last_report = now

    def sweep_once(self) -> int:
        """Run every sweep that is due; returns how many rows moved."""
        due, moved = self._due(), 0
        for sweep in SWEEPS:
            now = time.monotonic()
            rested = now - self._last_pass.get(sweep.name, float("-inf")) >= sweep.interval
            if not rested or (sweep.due and sweep.name not in due):
                continue
            self._last_pass[sweep.name] = now
            try:
                moved += sweep.run(self._contexts[sweep.name])
            except SQLAlchemyError as error:  # must not starve the other sweeps
                self._excuse(error)
            except Exception:
                _log.exception("sweep failed", extra={"sweep": sweep.name})
        return moved

    def _due(self) -> set[str]:
        """The sweeps that have rows; asked again on a new connection if the pooled one is dead."""
        try:
            return due_sweeps(self.database)
        except DBAPIError as error:
            if not error.connection_invalidated:
                raise
            return due_sweeps(self.database)

    def _excuse(self, error: SQLAlchemyError) -> None:
        """After an outage every lease has expired: wait for heartbeats before rescue and checks."""
        _log.warning("sweep failed", extra={"error": str(error)})
        if is_unavailable(error):
            self._leases_count_from = time.monotonic() + self._lease
            self._last_pass["check_live_runs"] = self._leases_count_from

    def end(self, number: int = 0, frame: FrameType | None = None) -> None:
        """Stop after the current pass; a signal handler."""
        self._ending = True


def main() -> None:
    """Run until SIGTERM or SIGINT. Exits with status 1 on an old schema."""
    settings = Settings.from_env()
    logs.configure(settings.log_level)
    try:
        scheduler = Scheduler(settings)
    except VaultMissing as error:
        sys.exit(f"Error: {error}")
    try:
        schema.check_schema(scheduler.database.engine)
    except Unavailable as error:
        sys.exit(f"Error: {error}")
    signal.signal(signal.SIGTERM, scheduler.end)
    signal.signal(signal.SIGINT, scheduler.end)
    scheduler.run()


if __name__ == "__main__":
    main()
