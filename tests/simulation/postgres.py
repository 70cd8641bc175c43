"""Real Postgres in one transaction that is rolled back, with simulated clock, crashes and outages.

Each transaction of the core is a savepoint. The core's own `now()` and `clock_timestamp()` find
functions of the schema `simulated` first, which return the virtual time.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from orchestrator.broker.messages import Outbound
from orchestrator.db.database import Database

BEGINNING = datetime(2030, 1, 1, tzinfo=UTC)

CLOCK = """
    CREATE SCHEMA IF NOT EXISTS simulated;
    CREATE OR REPLACE FUNCTION simulated.now() RETURNS timestamptz LANGUAGE sql STABLE
        AS $$ SELECT current_setting('simulated.now')::timestamptz $$;
    CREATE OR REPLACE FUNCTION simulated.clock_timestamp() RETURNS timestamptz LANGUAGE sql STABLE
        AS $$ SELECT current_setting('simulated.now')::timestamptz $$;
"""


class Crashed(BaseException):
    """The process that opened the transaction dies; a BaseException, so that no code catches it."""

    def __init__(self, committed: bool) -> None:
        self.committed = committed


@dataclass
class Fate:
    """What happens to a process at one of its transactions."""

    at: int = 0  # the transaction, from 1; 0 for none
    committed: bool = False  # whether it dies after the commit, before the broker has the messages
    meanwhile: Callable[[], None] | None = None  # what others do before it, instead


def fate(number: int, among: int = 1) -> Fate:
    """Usually none; else death at one of the first transactions."""
    if number % 6 > 1:
        return Fate()
    return Fate(at=1 + number // 6 % among, committed=number % 2 == 0)


class Postgres:
    """One connection, its virtual time, and the commits that a crash would lose."""

    def __init__(self, connection: Connection, fragile: bool) -> None:
        self.connection = connection
        self.now = 0.0  # virtual seconds since the beginning
        self.away_until = 0.0
        self._outside = connection.get_nested_transaction()
        self._fragile = fragile  # whether it may crash: that costs savepoints
        self._forgettable = False  # whether there are commits that a crash would lose

    def wait(self, seconds: float) -> None:
        """Advance the virtual time."""
        self.now += seconds
        self.set_time()

    def set_time(self) -> None:
        """Set the virtual time in the database."""
        params = (self.time().isoformat(),)
        self.connection.exec_driver_sql("SELECT set_config('simulated.now', %s, false)", params)

    def time(self, later: float = 0) -> datetime:
        """The virtual time, plus some seconds."""
        return BEGINNING + timedelta(seconds=self.now + later)

    @property
    def away(self) -> bool:
        """Whether it refuses connections."""
        return self.now < self.away_until

    def crash(self) -> bool:
        """Lose the commits that are not on disk; False when there are none."""
        if not self._forgettable:
            return False
        self.connection.exec_driver_sql("ROLLBACK TO SAVEPOINT durable")
        self._forgettable = False
        self.set_time()
        return True

    def begin(self, durable: bool) -> None:
        """A transaction of the core begins. Raises OperationalError while it is away."""
        if self.away:
            raise OperationalError("", {}, Exception("the database system is shutting down"))
        if self._fragile and not durable and not self._forgettable:
            self.connection.exec_driver_sql("SAVEPOINT durable")
            self._forgettable = True

    @property
    def in_transaction(self) -> bool:
        """Whether a transaction of the core is open."""
        return self.connection.get_nested_transaction() is not self._outside

    def committed(self, durable: bool) -> None:
        """A transaction of the core has committed; a durable one flushes those before it."""
        if durable and self._forgettable:
            self.connection.exec_driver_sql("RELEASE SAVEPOINT durable")
            self._forgettable = False


class SimulatedDatabase(Database):
    """The transactions of one simulated process, and its fate."""

    def __init__(
        self, postgres: Postgres, deliver: Callable[[Outbound], None], *, durable: bool = True
    ) -> None:
        super().__init__(postgres.connection, self._deliver_after_commit)  # type: ignore[arg-type]
        self._postgres, self._broker_deliver, self._durable = postgres, deliver, durable
        self._fate, self._opened = Fate(), 0

    def face(self, fate: Fate) -> None:
        """Set the fate of the transactions from here on."""
        self._fate, self._opened = fate, 0

    @contextmanager
    def transaction(self, *_: Any, **__: Any) -> Iterator[Session]:
        """One transaction of the core. Raises Crashed according to the fate."""
        self._opened += 1
        is_fated = self._opened == self._fate.at
        if is_fated and self._fate.meanwhile:
            self._fate.meanwhile()
            is_fated = False
        dies = is_fated and not self._fate.committed
        self._postgres.begin(self._durable)
        with super().transaction() as session:
            yield session
            if dies:
                raise Crashed(committed=False)
        self._settle()
        if is_fated:
            raise Crashed(committed=True)

    def _deliver_after_commit(self, outgoing: Outbound) -> None:
        assert not self._postgres.in_transaction, "the broker is told before the commit"
        self._settle()
        if self._opened == self._fate.at and self._fate.committed:
            raise Crashed(committed=True)
        self._broker_deliver(outgoing)

    def _settle(self) -> None:
        self._postgres.committed(self._durable)


@contextmanager
def simulated(engine: Engine, *, fragile: bool) -> Iterator[Postgres]:
    """A Postgres for one seed; everything is rolled back afterwards."""
    with engine.connect() as connection:
        transaction = connection.begin()
        connection.exec_driver_sql("SET LOCAL search_path = simulated, pg_catalog, public")
        connection.begin_nested()  # so that each session uses a savepoint of its own
        postgres = Postgres(connection, fragile)
        postgres.set_time()
        try:
            yield postgres
        finally:
            transaction.rollback()
