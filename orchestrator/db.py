"""The one place that opens a transaction."""

import logging
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TypeVar
from uuid import UUID

from sqlalchemy import Engine, create_engine, event
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.exc import DBAPIError, OperationalError, SQLAlchemyError, TimeoutError
from sqlalchemy.orm import Session

from orchestrator import events, journeys, prepared
from orchestrator.messages import Outgoing, outgoing

_log = logging.getLogger(__name__)

Value = TypeVar("Value")

# A host that vanishes in a transaction must not keep its row locks for long: both sides look.
# Plans are kept: one that was made while a table was small must be good when it has grown. What
# `enable_seqscan=off` adds to the cost of a small table makes Postgres compile a statement of 2 ms
# with LLVM, for 150 ms, where it has it: `jit` is on by default. A server may have any other style
# of intervals and dates than the one that psycopg2 reads.
_SESSION = (
    "-c timezone=UTC -c intervalstyle=postgres -c datestyle=ISO"
    " -c jit=off -c lock_timeout=15s -c statement_timeout=60s"
    " -c enable_seqscan=off -c idle_in_transaction_session_timeout=15s -c tcp_keepalives_idle=10"
    " -c tcp_keepalives_interval=5 -c tcp_keepalives_count=3"
)
_SNAPSHOT = "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ"
_ACT_FOR = "SET LOCAL orchestrator.tenant = '{}'"
# A plan made before a migration; a server that a failover left behind, and that only reads.
_OF_CONNECTION = ("0A000", "25006")
# Serialization failure, deadlock, and every way Postgres says "not now", as when its disk is full
# (class 53): worth one more try.
_TRANSIENT_CODES = ("40001", "40P01", "53", "55P03", "57P01", "57P02", "57P03")


def make_engine(
    url: str,
    *,
    pool_size: int = 5,
    name: str = "orchestrator",
    pre_ping: bool = True,
    durable: bool = True,
    role: str | None = None,
    alone: bool = False,
) -> Engine:
    """An engine whose connections notice a dead Postgres and give up waiting in the end.

    Without `pre_ping` the first transaction after an outage fails: for callers that try again.
    With `durable=False` a commit does not wait for the disk: right only where losing the last
    moments in a crash is harmless, as it is for a claim. With `role` the connections act as that
    role of Postgres, bound by its policies. With `alone` each statement is a transaction.
    """
    options = _SESSION if durable else f"{_SESSION} -c synchronous_commit=off"
    engine = create_engine(
        url,
        pool_size=pool_size,
        max_overflow=0,
        pool_timeout=15,
        pool_pre_ping=pre_ping,
        connect_args={
            "connect_timeout": 5,
            "options": f"{options} -c role={role}" if role else options,
            "application_name": name,
            "keepalives_idle": 10,
            "keepalives_interval": 5,
            "keepalives_count": 3,
            "tcp_user_timeout": 15_000,  # milliseconds without an answer to what was sent
        },
    )
    event.listen(engine, "handle_error", _renew)
    (journeys.spare if alone else journeys.shorten)(engine)
    return engine


class CommitInDoubt(OperationalError):
    """The connection was lost while a transaction committed: perhaps it has, perhaps not.

    Whatever else a transaction raises leaves nothing behind.
    """


class Database:
    """Opens transactions, and tells the broker what they meant once they have committed."""

    def __init__(self, engine: Engine, deliver: Callable[[Outgoing], None]) -> None:
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
                        journeys.begin_with(session.connection(), _SNAPSHOT)
                    if tenant_id is not None:
                        journeys.begin_with(session.connection(), _ACT_FOR.format(tenant_id))
                    yield session
                    session.flush()
                    events.write(session)
                    committing = True
                    prepared.execute_later(session, commit=True)
            except DBAPIError as error:
                if committing and error.connection_invalidated:
                    raise _in_doubt(error) from error
                raise
            collected = outgoing(session)
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


def _renew(context: ExceptionContext) -> None:
    """Begin with a new connection where it is this one's fault."""
    if getattr(context.original_exception, "pgcode", None) in _OF_CONNECTION:
        context.is_disconnect = True


def is_away(error: SQLAlchemyError) -> bool:
    """Whether Postgres did not answer, rather than refuse what it was asked."""
    if not isinstance(error, DBAPIError):
        return False
    code = getattr(error.orig, "pgcode", None)
    down = code is None or code.startswith("57P")
    return error.connection_invalidated or (isinstance(error, OperationalError) and down)


def is_transient(error: DBAPIError | TimeoutError) -> bool:
    """Whether the same work may succeed a little later."""
    if isinstance(error, TimeoutError):  # the pool's: every connection is taken
        return True
    code = getattr(error.orig, "pgcode", None)
    return (
        error.connection_invalidated
        or (code is not None and code.startswith(_TRANSIENT_CODES))
        or (isinstance(error, OperationalError) and code is None)
    )
