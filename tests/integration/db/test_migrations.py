"""Migrations create the tables of the models; an old schema is refused with the remedy."""

from collections.abc import Iterator
from contextlib import contextmanager
from uuid import uuid4

import pytest
from click.testing import CliRunner
from sqlalchemy import Engine, create_engine, make_url, text

from orchestrator.cli.main import main
from orchestrator.db import migrate, schema
from orchestrator.db.engine import make_engine
from orchestrator.db.row_security import API_ROLE
from orchestrator.errors import Unavailable
from orchestrator.local import processes


def test_the_migrations_create_the_tables_of_the_models(engine: Engine) -> None:
    with engine.connect() as connection:
        assert migrate.schema_drift(connection) == []


def test_migrating_twice_is_harmless(engine: Engine) -> None:
    migrated = migrate.migrate(engine)

    assert migrated == (schema.latest_version(), schema.latest_version(), [])


def test_an_old_schema_is_refused_with_the_command_that_migrates_it(engine: Engine) -> None:
    with (
        _version(engine, "older"),
        pytest.raises(Unavailable, match="orchestrator migrate"),
    ):
        schema.check_schema(engine)
    schema.check_schema(engine)


def test_older_code_works_on_a_newer_schema_but_does_not_migrate_it(
    engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    with _version(engine, "9999"):
        schema.check_schema(engine)
        with pytest.raises(Unavailable, match="9999, which is newer than this code's"):
            migrate.migrate(engine)

    assert "database schema newer than code" in caplog.text
    schema.check_schema(engine)


@contextmanager
def _version(engine: Engine, version: str) -> Iterator[None]:
    """The database has another version."""
    change = text("UPDATE alembic_version SET version_num = :version")
    with engine.begin() as connection:
        connection.execute(change, {"version": version})
    try:
        yield
    finally:
        with engine.begin() as connection:
            connection.execute(change, {"version": schema.latest_version()})


def test_a_database_that_is_unavailable_is_reported(engine: Engine) -> None:
    url = make_url(engine.url).set(database="does_not_exist")
    away = make_engine(url.render_as_string(hide_password=False))

    with pytest.raises(Unavailable, match="cannot be reached"):
        schema.check_schema(away)


def test_migrating_an_unavailable_database_fails_with_one_line() -> None:
    url = f"postgresql://nobody@127.0.0.1:{processes.free_port()}/nothing"
    environ = {"ORCHESTRATOR_DATABASE_URL": url, "ORCHESTRATOR_ADMIN_KEY": "ok_" + "k" * 32}

    result = CliRunner().invoke(main, ["migrate"], env=environ)

    assert result.exit_code == 1
    assert result.stderr.startswith("Error: the database: connection to server")
    assert len(result.stderr.splitlines()) == 1


def test_an_owner_that_is_no_superuser_can_migrate_and_act_as_the_api(engine: Engine) -> None:
    server = create_engine(engine.url, isolation_level="AUTOCOMMIT")
    name = f"owner_{uuid4().hex[:8]}"
    with server.connect() as connection:
        connection.execute(text(f"CREATE ROLE {name} LOGIN CREATEROLE PASSWORD 'x'"))
        connection.execute(text(f"GRANT {name} TO CURRENT_USER"))  # who may be no superuser either
        connection.execute(text(f"GRANT {API_ROLE} TO {name} WITH ADMIN OPTION"))
        connection.execute(text(f"CREATE DATABASE {name} OWNER {name}"))
    url = engine.url.set(database=name, username=name, password="x")
    try:
        owner = make_engine(url.render_as_string(hide_password=False))
        migrate.migrate(owner)
        owner.dispose()
        api = make_engine(url.render_as_string(hide_password=False), role=API_ROLE)
        with api.connect() as connection:
            assert connection.scalar(text("SELECT current_user")) == API_ROLE
        api.dispose()
    finally:
        with server.connect() as connection:
            connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))
            connection.execute(text(f"DROP OWNED BY {name}"))
            connection.execute(text(f"DROP ROLE {name}"))
        server.dispose()
