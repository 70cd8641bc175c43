"""Migrates the schema; separate from `schema`, because Alembic is slow to import."""

from collections.abc import Sequence
from typing import NamedTuple

from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from sqlalchemy import Connection, Engine, text

from orchestrator.db import row_security, schema
from orchestrator.errors import Unavailable
from orchestrator.models import Run

_LOCK = 7_046_029_254  # arbitrary key of the advisory lock of migrations


class Migrated(NamedTuple):
    """The result of a migration."""

    before: str | None  # the schema's version, if there was one
    after: str
    repaired: Sequence[str] = ()  # what was missing of row-level security


def migrate(engine: Engine) -> Migrated:
    """Migrate the schema to the latest version, and repair row-level security; idempotent.

    A new database gets the tables of the models; migrations upgrade those of an earlier release.
    Raises Unavailable on a newer schema, as there are no downgrades, and without a privilege.
    """
    with engine.begin() as connection:
        connection.execute(text("SET LOCAL lock_timeout = '60s'"))
        connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
        connection.execute(text("SET LOCAL lock_timeout = '4s'"))
        connection.execute(text("SET LOCAL statement_timeout = 0"))  # creating an index takes long
        schema.check_database(connection)
        schema.check_privileges(connection)
        before = schema.current_version(connection)
        if schema.is_newer_version(before):
            raise Unavailable(
                f"the database has version {before}, which is newer than this code's"
                f" {schema.latest_version()};"
                " it is up to date, and only newer code migrates it further"
            )
        config = alembic_config()
        config.attributes["connection"] = connection
        if before:
            command.upgrade(config, "head")
        else:
            Run.metadata.create_all(connection, checkfirst=False)
            schema.replace_functions(connection)
            command.stamp(config, "head")
        return Migrated(before, schema.latest_version(), row_security.repair_security(connection))


def schema_drift(connection: Connection) -> list[object]:
    """The differences between the database and the models; none after `migrate`."""
    context = MigrationContext.configure(connection, opts={"compare_type": True})
    return list(compare_metadata(context, Run.metadata))


def alembic_config() -> Config:
    """Alembic's configuration."""
    config = Config()
    config.set_main_option("script_location", str(schema.MIGRATIONS))
    return config
