"""Transactions: `Database.transaction` is the only place that opens one."""

import copy
import logging
import random
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from datetime import timedelta
from typing import Self, TypeVar
from uuid import UUID

from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError, OperationalError, SQLAlchemyError, TimeoutError
from sqlalchemy.orm import Session

from orchestrator.broker.messages import Outbound
from orchestrator.db import journal, round_trips, statements
from orchestrator.db.autocommit import AnySession, Autocommit
from orchestrator.db.engine import is_transient
from orchestrator.db.unit_of_work import unit_of
from orchestrator.models import Actor

_log = logging.getLogger(__name__)
Value = TypeVar("Value")
Kind = TypeVar("Kind", Session, Autocommit)
_SNAPSHOT = "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ"
_ACT_FOR = "SET LOCAL orchestrator.tenant = '{}'"


class CommitInDoubt(OperationalError):
    """The connection was lost during COMMIT: the transaction may have been committed or not.

    After any other error it was rolled back.
    """


class Database:
    """Opens transactions, and sends their messages to the broker after the commit."""

    def __init__(self, engine: Engine, deliver: Callable[[Outbound], None]) -> None:
        self.engine = engine
        self._deliver = deliver
        self._actor: Actor | None = None

    def acting(self, actor: Actor) -> Self:
        """The same database for an actor, whom the audit log names for what it changes."""
        other = copy.copy(self)
        other._actor = actor
        return other

    @contextmanager
    def transaction(
        self, tenant_id: UUID | None = None, *, snapshot: bool = False
    ) -> Iterator[Session]:
        """One transaction: commits at the end of the block, rolls back when the block raises.

        With a tenant, on connections of the API's role, other tenants' rows are invisible. With
        `snapshot` all statements see one snapshot (REPEATABLE READ), for reading only. Raises
        CommitInDoubt when the connection is lost during the commit.
        """
        committing = False
        with Session(
            self.engine, expire_on_commit=False, autoflush=False, info={"actor": self._actor}
        ) as session:
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
                    statements.flush_deferred(session)
            except DBAPIError as error:
                if committing and error.connection_invalidated:
                    raise _in_doubt(error) from error
                raise
        self._send(session)

    @contextmanager
    def autocommit(self) -> Iterator[Autocommit]:
        """A transaction for each statement of the block, which calls a function.

        Raises CommitInDoubt when the connection is lost during a statement.
        """
        session = Autocommit(self.engine)
        try:
            yield session
        except DBAPIError as error:
            if error.connection_invalidated:
                raise _in_doubt(error) from error
            raise
        self._send(session)

    def _send(self, session: AnySession) -> None:
        outbound = unit_of(session).outbound
        if outbound.messages or outbound.revoked:
            self._deliver(outbound)

    def run_with_retry(
        self,
        work: Callable[[Session], Value],
        *,
        within: timedelta,
        recover: Callable[[Session], Value | None] | None = None,
    ) -> Value:
        """Do the work in a transaction; repeat it after transient errors, for at most `within`.

        After a commit in doubt `recover` returns the value of the work if it was committed: then it
        is not repeated. Raises what the last try raised.
        """
        return self._retry(self.transaction, work, within, recover)

    def call_with_retry(
        self,
        call: Callable[[Autocommit], Value],
        *,
        within: timedelta,
        recover: Callable[[Session], Value | None],
    ) -> Value:
        """Call a function of the database, which is all of its transaction; repeat it likewise."""
        return self._retry(self.autocommit, call, within, recover)

    def _retry(
        self,
        begin: Callable[[], AbstractContextManager[Kind]],
        work: Callable[[Kind], Value],
        within: timedelta,
        recover: Callable[[Session], Value | None] | None,
    ) -> Value:
        give_up = time.monotonic() + within.total_seconds()
        pause = 0.05
        in_doubt = False
        while True:
            try:
                if in_doubt and recover:
                    with self.transaction() as session:
                        value = recover(session)
                    if value is not None:
                        return value
                in_doubt = False
                with begin() as each:
                    value = work(each)
            except (DBAPIError, TimeoutError) as error:
                if not is_transient(error) or time.monotonic() + pause > give_up:
                    raise
                in_doubt = in_doubt or isinstance(error, CommitInDoubt)
                _log.warning("postgres unavailable, retrying", extra={"error": str(error)})
                time.sleep(pause * random.uniform(0.5, 1))
                pause = min(pause * 2, 1)
            else:
                return value

    def answers(self) -> bool:
        """Whether Postgres answers a query."""
        with suppress(SQLAlchemyError), self.engine.connect() as connection:
            connection.exec_driver_sql("SELECT 1")
            return True
        return False

    def forget_connections(self) -> None:
        """Drop inherited connections without closing them: a forked child shares them."""
        self.engine.dispose(close=False)


def _in_doubt(error: DBAPIError) -> CommitInDoubt:
    return CommitInDoubt(
        error.statement, error.params, error.orig or error, connection_invalidated=True
    )
