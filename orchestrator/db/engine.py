"""Engines with our session settings, and the classification of database errors."""

from typing import Any

from sqlalchemy import Engine, create_engine, event
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.exc import DBAPIError, OperationalError, SQLAlchemyError, TimeoutError

from orchestrator.db import round_trips
from orchestrator.db.autocommit import CONNECTION_CODES
from orchestrator.json_values import dump_json

# Sent with each transaction: a pooler may give every transaction another session of Postgres, and
# refuses such settings at the start of a connection. The styles of intervals and dates are those
# that psycopg2 parses. `jit=off`, it is on by default: `enable_seqscan=off` adds a cost that makes
# Postgres compile a statement of 2 ms with LLVM, for 150 ms. `enable_seqscan=off`: the plan of a
# function, made for a small table, must be good when it has grown.
_SETTINGS = {
    "timezone": "UTC",
    "intervalstyle": "postgres",
    "datestyle": "ISO",
    "jit": "off",
    "enable_seqscan": "off",
    "statement_timeout": "60s",
    "idle_in_transaction_session_timeout": "15s",
}

# A host that vanishes must not keep its connections for long: keepalives on both sides. This is the
# server's. Behind a pooler it is about the pooler's own connection, where it does no harm.
_KEEPALIVES = """
    SET tcp_keepalives_idle = 10; SET tcp_keepalives_interval = 5; SET tcp_keepalives_count = 3
"""

# Serialization failure, deadlock, no resources (class 53, as a full disk), lock timeout, shutdown.
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
    lock_timeout: str = "15s",
) -> Engine:
    """An engine whose connections detect a dead Postgres and have timeouts.

    Without `pre_ping` the first transaction after an outage fails: for callers that retry. With
    `durable=False` a commit does not wait for the disk: only where losing the last moments in a
    crash is harmless, as for a claim. With `role` the transactions act as that role, bound by its
    policies. With `alone` each statement is a transaction. `lock_timeout` limits one wait.
    """
    settings = _SETTINGS | {"lock_timeout": lock_timeout}
    if not durable:
        settings["synchronous_commit"] = "off"
    if role is not None:
        settings["role"] = role
    engine = create_engine(
        url,
        pool_size=pool_size,
        max_overflow=0,
        pool_timeout=15,
        pool_pre_ping=pre_ping,
        json_serializer=dump_json,
        hide_parameters=True,  # in the texts of errors: they have the parameters of runs
        connect_args={
            "connect_timeout": 5,
            "client_encoding": "UTF8",  # it has every character
            "application_name": name,
            "keepalives_idle": 10,
            "keepalives_interval": 5,
            "keepalives_count": 3,
            "tcp_user_timeout": 15_000,  # milliseconds without an acknowledgement
        },
    )
    event.listen(engine, "handle_error", _invalidate)
    event.listen(engine, "connect", _prepare)
    each = "".join(f"SET LOCAL {name} = '{value}'; " for name, value in settings.items())
    round_trips.piggyback(engine, each, transactions=not alone)
    return engine


def _prepare(connection: Any, _: Any) -> None:
    """Set what belongs to the connection itself."""
    connection.autocommit = True
    with connection.cursor() as cursor:
        cursor.execute(_KEEPALIVES)


def _invalidate(context: ExceptionContext) -> None:
    """Have the pool replace a connection that causes the error."""
    if getattr(context.original_exception, "pgcode", None) in CONNECTION_CODES:
        context.is_disconnect = True


def is_unavailable(error: SQLAlchemyError) -> bool:
    """Whether Postgres could not be reached, rather than refused a statement."""
    if not isinstance(error, DBAPIError):
        return False
    code = getattr(error.orig, "pgcode", None)
    down = code is None or code.startswith("57P")
    return error.connection_invalidated or (isinstance(error, OperationalError) and down)


def is_transient(error: Exception) -> bool:
    """Whether a retry may succeed."""
    if not isinstance(error, DBAPIError):
        return isinstance(error, TimeoutError)  # of the pool: every connection is in use
    code = getattr(error.orig, "pgcode", None)
    return (
        error.connection_invalidated
        or (code is not None and code.startswith(_TRANSIENT_CODES))
        or (isinstance(error, OperationalError) and code is None)
    )
