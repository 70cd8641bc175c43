"""Engines with our session settings, and which of Postgres' errors are worth another try."""

from sqlalchemy import Engine, create_engine, event
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.exc import DBAPIError, OperationalError, SQLAlchemyError, TimeoutError

from orchestrator.db import round_trips

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
    (round_trips.autocommit if alone else round_trips.piggyback_begin_commit)(engine)
    return engine


def _renew(context: ExceptionContext) -> None:
    """Begin with a new connection where it is this one's fault."""
    if getattr(context.original_exception, "pgcode", None) in _OF_CONNECTION:
        context.is_disconnect = True


def is_unavailable(error: SQLAlchemyError) -> bool:
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
