"""The scheduler: runs the sweeps for ever. Any number may run; there is no leader."""

import logging
import random
import signal
import sys
import time
from collections.abc import Callable
from types import FrameType

from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from config import logging as logs
from config.settings import Settings
from orchestrator.access import secrets
from orchestrator.broker.client import Broker, make_app
from orchestrator.db import schema
from orchestrator.db.database import Database
from orchestrator.db.engine import is_unavailable, make_engine
from orchestrator.errors import Unavailable
from orchestrator.maintenance import repair, sweeps
from orchestrator.monitoring import workers
from orchestrator.schedules import RunOptions
from workers.scheduler.deliverer import Deliverer

IDLE_PAUSE = 0.3  # seconds between looks when nothing moves: about three statements a second
BUSY_PAUSE = 0.02  # seconds between looks while something moves
# Sweeps that would ask again in vain: how many seconds one leaves between its passes.
MIN_INTERVALS = {
    "republish": 1.0, "rescue": 0.3, "pass_on": 2.0, "deliver": 0.1,
    "backfill": 0.5,
    "fold": 1.0, "analyze": 3.0, "roll_up": 10.0, "forget": 600.0, "heal": 30.0,
}  # fmt: skip
# These look for themselves what they have to do.
ALWAYS_DUE = {"analyze", "roll_up", "forget", "heal"}

_log = logging.getLogger(__name__)


class Scheduler:
    """Looks what needs a sweep, and sweeps it."""

    def __init__(self, settings: Settings) -> None:
        broker = Broker(make_app(settings.redis_url, publisher=True))
        engine = make_engine(
            settings.database_url, pool_size=2, name=workers.SCHEDULER_CONNECTION, pre_ping=False
        )
        self._database = database = Database(engine, broker.deliver)
        # Connections of its own: however many send, a sweep waits for none of them.
        engine = make_engine(settings.database_url, pool_size=2, name="orchestrator-deliverer")
        outside = Database(engine, broker.deliver)
        self._deliverer = Deliverer(outside, settings, secrets.secret_key(settings))
        limits = RunOptions(settings.window, settings.cancel_grace)
        rounds = repair.Rounds()
        # What an outage left behind is for the other sweeps: this one comes when they had time.
        self._last: dict[str, float] = {"heal": time.monotonic()}
        self._leases_count_from = 0.0
        self._ending = False  # to set an Event in a signal handler may wait for ever
        self._lease = settings.lease.total_seconds()
        self._sweeps: dict[str, Callable[[], int]] = {
            "fall_due": lambda: sweeps.release_due_runs(database),
            "pass_on": lambda: sweeps.grant_free_keys(database),
            "be_late": lambda: sweeps.mark_late(database),
            "rescue": lambda: sweeps.rescue_expired(database, silent=self._leases_count()),
            "fire": lambda: sweeps.fire(database, limits),
            "fire_events": lambda: sweeps.fire_events(database, limits),
            "backfill": lambda: sweeps.advance_backfills(database, limits),
            "expire": lambda: sweeps.expire_timed_out(database, settings.cancel_grace),
            "wake": lambda: sweeps.wake_waiting_steps(database),
            "republish": lambda: sweeps.republish_lost(database, broker),
            "admit": lambda: sweeps.admit_waiting(database, settings.window),
            "deliver": self._deliverer.wake,
            "fold": lambda: sweeps.fold_counters(database),
            "analyze": lambda: sweeps.analyze(database),
            "roll_up": lambda: sweeps.roll_up(database),
            "forget": lambda: sweeps.forget_old_rows(database),
            "heal": lambda: repair.repair_recent(database, rounds),
        }

    def check_schema(self) -> None:
        """Raises Unavailable, with the command that mends it, on an old one."""
        schema.check_schema(self._database.engine)

    def run(self) -> None:
        """Sweep until told to end; Postgres and Redis may come and go meanwhile."""
        while not self._ending:
            try:
                pause = BUSY_PAUSE if self.sweep_once() else IDLE_PAUSE
            except SQLAlchemyError as error:
                self._excuse(error)
                pause = IDLE_PAUSE * random.uniform(1, 3)
            time.sleep(pause)
        self._deliverer.end()

    def sweep_once(self) -> int:
        """Run every sweep that has something to do; gives how many rows moved."""
        needed = self._look() | ALWAYS_DUE
        moved = 0
        for name, sweep in self._sweeps.items():
            rested = time.monotonic() - self._last.get(name, float("-inf")) >= MIN_INTERVALS.get(
                name, 0
            )
            if name in needed and rested:
                self._last[name] = time.monotonic()
                try:
                    moved += sweep()
                except SQLAlchemyError as error:  # one that fails must not starve the others
                    self._excuse(error)
                except Exception:
                    _log.exception("sweep failed", extra={"sweep": name})
        return moved

    def _look(self) -> set[str]:
        """What needs a sweep; a connection from before an outage is no sign of one now."""
        try:
            return sweeps.due_sweeps(self._database)
        except DBAPIError as error:
            if not error.connection_invalidated:
                raise
            return sweeps.due_sweeps(self._database)

    def _excuse(self, error: SQLAlchemyError) -> None:
        """After an outage every lease has run out: let the heartbeats come first."""
        _log.warning("sweep failed", extra={"error": str(error)})
        if is_unavailable(error):
            self._leases_count_from = self._last["heal"] = time.monotonic() + self._lease

    def _leases_count(self) -> bool:
        return time.monotonic() > self._leases_count_from

    def end(self, number: int = 0, frame: FrameType | None = None) -> None:
        """Stop after the pass that runs."""
        self._ending = True


def main() -> None:
    """Run until SIGTERM or SIGINT; not on an old schema."""
    settings = Settings.from_env()
    logs.configure(settings.log_level)
    scheduler = Scheduler(settings)
    try:
        scheduler.check_schema()
    except Unavailable as error:
        sys.exit(f"Error: {error}")
    signal.signal(signal.SIGTERM, scheduler.end)
    signal.signal(signal.SIGINT, scheduler.end)
    scheduler.run()


if __name__ == "__main__":
    main()
