"""Brings the schema up to date; apart from `schema`, because Alembic is slow to import."""

from collections.abc import Sequence
from typing import NamedTuple

from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from sqlalchemy import Connection, Engine, text

from orchestrator.db import row_security, schema
from orchestrator.errors import Unavailable
from orchestrator.models import Run, metrics, notifications, outputs, schedules

# Importing a module of tables is what makes them known.
_TABLES = (notifications, outputs, schedules, metrics)
_LOCK = 7_046_029_254  # of whoever migrates; the number has no meaning


class Migrated(NamedTuple):
    """What a migration did."""

    before: str | None  # the schema's version; None: there was none
    after: str
    repaired: Sequence[str] = ()  # what was missing of the row-level security


def migrate(engine: Engine) -> Migrated:
    """Bring the schema up to date, and make what a restore left out. Twice is harmless.

    Raises Unavailable on the schema of newer code: there is no way down.
    """
    with engine.begin() as connection:
        connection.execute(text("SET LOCAL lock_timeout = '60s'"))
        connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
        connection.execute(text("SET LOCAL lock_timeout = '4s'"))
        connection.execute(text("SET LOCAL statement_timeout = 0"))  # an index takes what it takes
        before = schema.current_version(connection)
        if schema.is_newer_version(before):
            raise Unavailable(
                f"the database has version {before}, which is newer than this code's"
                f" {schema.latest_version()};"
                " it is up to date, and only newer code migrates it further"
            )
        config = alembic_config()
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
        return Migrated(before, schema.latest_version(), row_security.repair_security(connection))


def schema_drift(connection: Connection) -> list[object]:
    """What differs between the database and the models; nothing, after `migrate`."""
    context = MigrationContext.configure(connection, opts={"compare_type": True})
    return list(compare_metadata(context, Run.metadata))


def alembic_config() -> Config:
    """Where Alembic finds the migrations."""
    config = Config()
    config.set_main_option("script_location", str(schema.MIGRATIONS))
    return config
