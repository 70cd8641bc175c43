"""The schema's version: bring it up to date, or refuse to work on an old one."""

import logging
from pathlib import Path

from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import OperationalError

from orchestrator import delivery_models, output_models, schedule_models, system_models
from orchestrator.errors import Unavailable
from orchestrator.models import Run

# Importing a module of tables is what makes them known.
_TABLES = (delivery_models, output_models, schedule_models, system_models)
_log = logging.getLogger(__name__)

_LOCK = 7_046_029_254  # of whoever migrates; the number has no meaning


def migrate(engine: Engine) -> tuple[str | None, str]:
    """Bring the schema up to date; gives the version before and after. Twice is harmless.

    Raises Unavailable on the schema of newer code: there is no way down.
    """
    with engine.begin() as connection:
        connection.execute(text("SET LOCAL lock_timeout = '60s'"))
        connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
        connection.execute(text("SET LOCAL lock_timeout = '4s'"))
        connection.execute(text("SET LOCAL statement_timeout = 0"))  # an index takes what it takes
        before = _current(connection)
        if _is_newer(before):
            raise Unavailable(
                f"the database has version {before}, which is newer than this code's {latest()};"
                " it is up to date, and only newer code migrates it further"
            )
        config = _config()
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
        return before, latest()


def check(engine: Engine) -> None:
    """Raises Unavailable, with the command that mends it, when the schema is older than the code.

    A newer one is fine: whatever a release adds, the one before works with.
    """
    try:
        with engine.connect() as connection:
            current = _current(connection)
    except OperationalError as error:
        raise Unavailable(f"the database cannot be reached: {error.orig}") from error
    if _is_newer(current):
        told = {"found": current, "known": latest()}
        _log.warning("the database is newer than this code, which works on it", extra=told)
    elif current != latest():
        found = f"version {current}" if current else "no tables of ours"
        raise Unavailable(
            f"the database has {found}, this code needs version {latest()}; "
            "run: orchestrator migrate"
        )


def drift(connection: Connection) -> list[object]:
    """What differs between the database and the models; nothing, after `migrate`."""
    context = MigrationContext.configure(connection, opts={"compare_type": True})
    return list(compare_metadata(context, Run.metadata))


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    return config


def latest() -> str:
    """The version that this code needs."""
    return str(ScriptDirectory.from_config(_config()).get_current_head())


def _is_newer(version: str | None) -> bool:
    return version is not None and version.isdecimal() and int(version) > int(latest())


def _current(connection: Connection) -> str | None:
    return MigrationContext.configure(connection).get_current_revision()
