"""The schema's version: the one that this code needs, and that of the database."""

import logging
from pathlib import Path

from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import OperationalError

from orchestrator.broker.messages import FAN_OUT
from orchestrator.db import row_security, transitions
from orchestrator.errors import Unavailable

MIGRATIONS = Path(__file__).parent / "migrations"
FUNCTIONS = Path(__file__).parent / "functions"

_log = logging.getLogger(__name__)

# What the functions share with statements in Python: `{NEEDS_MET}` in a file.
_PARTS = {
    "NEEDS_MET": transitions.NEEDS_MET,
    "SATISFIED": transitions.SATISFIED,
    "FAN_OUT": str(FAN_OUT),
}

_MIN_POSTGRES = 15
_DATABASE = """
    SELECT CAST(current_setting('server_version_num') AS int) / 10000 AS version,
        current_setting('server_encoding') AS encoding, quote_ident(current_database()) AS name,
        quote_ident(current_user) AS user, quote_ident(current_schema()) AS schema,
        has_schema_privilege(current_schema(), 'CREATE') AS creates,
        current_setting('transaction_read_only') = 'on' AS reads_only,
        pg_is_in_recovery() AS follows
"""


def check_database(connection: Connection) -> None:
    """Raises Unavailable, with what mends it, for a database that cannot store our data."""
    database = connection.execute(text(_DATABASE)).one()
    if database.version < _MIN_POSTGRES:
        raise Unavailable(
            f"Postgres {database.version} is too old: {_MIN_POSTGRES} or later is needed"
        )
    if database.encoding != "UTF8":
        raise Unavailable(
            f"the database {database.name} has the encoding {database.encoding}, which does not"
            " have every character; create another one with: CREATE DATABASE orchestrator"
            " ENCODING 'UTF8' LOCALE 'C' TEMPLATE template0"
        )


def check_privileges(connection: Connection) -> None:
    """Raises Unavailable, with what mends it, for a user who cannot create tables."""
    database = connection.execute(text(_DATABASE)).one()
    user = database.user
    if database.follows:
        raise Unavailable("this Postgres is a standby, which cannot be written; name its primary")
    if database.reads_only:
        raise Unavailable(
            f"the user {user} may only read; an administrator mends it with: ALTER ROLE {user}"
            f" IN DATABASE {database.name} SET default_transaction_read_only = off"
        )
    if database.schema is None:
        raise Unavailable(
            f"there is no schema on the search path of the user {user}; an administrator mends it"
            f" with: ALTER ROLE {user} SET search_path = public"
        )
    if not database.creates:
        raise Unavailable(
            f"the user {user} may not create tables in the schema {database.schema};"
            f" its owner mends it with: GRANT CREATE ON SCHEMA {database.schema} TO {user}"
        )


def check_schema(engine: Engine) -> None:
    """Raises Unavailable, with the command that repairs it, for a schema that the code cannot use.

    That is an older one, or one without the API's role and policies, as after a restore on a new
    server. A newer one is compatible: each release works on the schema of the next.
    """
    try:
        with engine.connect() as connection:
            check_database(connection)
            version = current_version(connection)
            is_latest = version == latest_version()
            missing = row_security.missing_security(connection) if is_latest else []
    except OperationalError as error:
        raise Unavailable(f"the database cannot be reached: {error.orig}") from error
    if is_newer_version(version):
        versions = {"found": version, "known": latest_version()}
        _log.warning("database schema newer than code", extra=versions)
    elif not is_latest:
        current = f"version {version}" if version else "no tables of ours"
        raise Unavailable(
            f"the database has {current}, this code needs version {latest_version()};"
            " run: orchestrator migrate"
        )
    elif missing:
        more = f" (and {len(missing) - 1} more like it)" if missing[1:] else ""
        raise Unavailable(f"{missing[0]}{more}; run: orchestrator migrate")


def latest_version() -> str:
    """The version that this code needs: the number of the last migration."""
    return max(each.name for each in (MIGRATIONS / "versions").glob("[0-9]*.py"))[:4]


def current_version(connection: Connection) -> str | None:
    """The version of the database; None for one without a schema."""
    if connection.scalar(text("SELECT to_regclass('alembic_version')")) is None:
        return None
    version: str | None = connection.scalar(text("SELECT version_num FROM alembic_version"))
    return version


def is_newer_version(version: str | None) -> bool:
    """Whether newer code has migrated the database to this version."""
    return version is not None and version.isdecimal() and int(version) > int(latest_version())


def replace_functions(connection: Connection) -> None:
    """Create or replace the functions and triggers.

    A migration calls this when a file in `functions` has changed.
    """
    for path in sorted(FUNCTIONS.glob("*.sql")):
        statement = path.read_text()
        for name, part in _PARTS.items():
            statement = statement.replace(f"{{{name}}}", part)
        connection.exec_driver_sql(statement.replace("%", "%%"))
