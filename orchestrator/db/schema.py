"""The schema's version: what this code needs, and what the database has."""

import logging
from pathlib import Path

from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import OperationalError

from orchestrator.db import row_security
from orchestrator.errors import Unavailable

MIGRATIONS = Path(__file__).parent / "migrations"
FUNCTIONS = Path(__file__).parent / "functions"

_log = logging.getLogger(__name__)


def check_schema(engine: Engine) -> None:
    """Raises Unavailable, with the command that mends it, for a schema that the code cannot use.

    It may be older, or without the API's role and its policies, as after a restore on a new server.
    A newer one is fine: whatever a release adds, the one before works with.
    """
    try:
        with engine.connect() as connection:
            found = current_version(connection)
            unsafe = row_security.missing_security(connection) if found == latest_version() else []
    except OperationalError as error:
        raise Unavailable(f"the database cannot be reached: {error.orig}") from error
    if is_newer_version(found):
        told = {"found": found, "known": latest_version()}
        _log.warning("the database is newer than this code, which works on it", extra=told)
    elif found != latest_version():
        has = f"version {found}" if found else "no tables of ours"
        raise Unavailable(
            f"the database has {has}, this code needs version {latest_version()};"
            " run: orchestrator migrate"
        )
    elif unsafe:
        more = f" (and {len(unsafe) - 1} more like it)" if unsafe[1:] else ""
        raise Unavailable(f"{unsafe[0]}{more}; run: orchestrator migrate")


def latest_version() -> str:
    """The version that this code needs: the number of the last migration."""
    return max(each.name for each in (MIGRATIONS / "versions").glob("[0-9]*.py"))[:4]


def current_version(connection: Connection) -> str | None:
    """The version of the database; None for one without tables of ours."""
    if connection.scalar(text("SELECT to_regclass('alembic_version')")) is None:
        return None
    version: str | None = connection.scalar(text("SELECT version_num FROM alembic_version"))
    return version


def is_newer_version(version: str | None) -> bool:
    """Whether newer code has migrated the database to this version."""
    return version is not None and version.isdecimal() and int(version) > int(latest_version())


def replace_functions(connection: Connection) -> None:
    """Create the functions and triggers with their current text, in place of older ones.

    A migration calls this when a file in `functions` has changed.
    """
    for path in sorted(FUNCTIONS.glob("*.sql")):
        connection.execute(text(path.read_text()))
