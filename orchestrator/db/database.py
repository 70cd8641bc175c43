"""The one place that opens a transaction."""

import logging
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TypeVar
from uuid import UUID

from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError, OperationalError, SQLAlchemyError, TimeoutError
from sqlalchemy.orm import Session

from orchestrator.broker.messages import Outbound, outbound
from orchestrator.db import journal, round_trips, statements
from orchestrator.db.engine import is_transient

_log = logging.getLogger(__name__)
Value = TypeVar("Value")
_SNAPSHOT = "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ"
_ACT_FOR = "SET LOCAL orchestrator.tenant = '{}'"


class CommitInDoubt(OperationalError):
    """The connection was lost while a transaction committed: perhaps it has, perhaps not.

    Whatever else a transaction raises leaves nothing behind.
    """


class Database:
    """Opens transactions, and tells the broker what they meant once they have committed."""

    def __init__(self, engine: Engine, deliver: Callable[[Outbound], None]) -> None:
        self.engine = engine
        self._deliver = deliver

    @contextmanager
    def transaction(
        self, tenant_id: UUID | None = None, *, snapshot: bool = False
    ) -> Iterator[Session]:
        """One transaction: commits at the end of the block, rolls back when the block raises.

        With a tenant, on connections of the API's role, no other tenant's rows can be seen. With
        `snapshot` all statements see the same moment, right for reading only. Raises CommitInDoubt
        when nobody can tell whether it committed.
        """
        committing = False
        with Session(self.engine, expire_on_commit=False, autoflush=False) as session:
            try:
                with session.begin():
                    if snapshot:
                        round_trips.prepend(session.connection(), _SNAPSHOT)
                    if tenant_id is not None:
                        round_trips.prepend(session.connection(), _ACT_FOR.format(tenant_id))
                    yield session
                    session.flush()
                    journal.write_events(session)
                    committing = True
                    statements.execute_deferred(session, commit=True)
            except DBAPIError as error:
                if committing and error.connection_invalidated:
                    raise _in_doubt(error) from error
                raise
            collected = outbound(session)
        if collected.messages or collected.revoked:
            self._deliver(collected)

    def persist(self, work: Callable[[Session], Value], *, within: timedelta) -> Value:
        """Do the work in a transaction, again and again while Postgres is away, up to a time.

        Work that is asked to do again what it has done may have committed: `doubts` tells. Raises
        what the last try raised.
        """
        give_up = time.monotonic() + within.total_seconds()
        pause = 0.05
        while True:
            try:
                with self.transaction() as session:
                    value = work(session)
            except (DBAPIError, TimeoutError) as error:
                if not is_transient(error) or time.monotonic() + pause > give_up:
                    raise
                _log.warning("postgres is away, trying again", extra={"error": str(error)})
                time.sleep(pause * random.uniform(0.5, 1))
                pause = min(pause * 2, 1)
            else:
                return value

    def answers(self) -> bool:
        """Whether Postgres does."""
        try:
            with self.engine.connect() as connection:
                connection.exec_driver_sql("SELECT 1")
        except SQLAlchemyError:
            return False
        return True

    def forget_connections(self) -> None:
        """Start with new connections, as a forked child must: it shares those it inherited."""
        self.engine.dispose(close=False)


def _in_doubt(error: DBAPIError) -> CommitInDoubt:
    return CommitInDoubt(
        error.statement, error.params, error.orig or error, connection_invalidated=True
    )
