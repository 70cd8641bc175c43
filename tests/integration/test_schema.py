"""Migrations make what the models say, and an old schema is refused with the mend."""

from uuid import uuid4

import pytest
from sqlalchemy import Engine, make_url, text

from orchestrator import schema
from orchestrator.db import API_ROLE, make_engine
from orchestrator.errors import Unavailable


def test_the_migrations_make_the_tables_of_the_models(engine: Engine) -> None:
    with engine.connect() as connection:
        assert schema.drift(connection) == []


def test_migrating_twice_is_harmless(engine: Engine) -> None:
    before, after = schema.migrate(engine)

    assert before == after


def test_an_old_schema_is_refused_with_the_command_that_mends_it(engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = 'older'"))
    try:
        with pytest.raises(Unavailable, match="orchestrator migrate"):
            schema.check(engine)
    finally:
        with engine.begin() as connection:
            version = schema.latest()
            connection.execute(text("UPDATE alembic_version SET version_num = :v"), {"v": version})
    schema.check(engine)


def test_a_database_that_is_away_is_named(engine: Engine) -> None:
    url = make_url(engine.url).set(database="nobody_made_this")
    away = make_engine(url.render_as_string(hide_password=False))

    with pytest.raises(Unavailable, match="cannot be reached"):
        schema.check(away)


def test_an_owner_that_is_no_superuser_can_migrate_and_act_as_the_api(engine: Engine) -> None:
    server = make_engine(engine.url.render_as_string(hide_password=False)).execution_options(
        isolation_level="AUTOCOMMIT"
    )
    name = f"owner_{uuid4().hex[:8]}"
    with server.connect() as connection:
        connection.execute(text(f"CREATE ROLE {name} LOGIN CREATEROLE PASSWORD 'x'"))
        connection.execute(text(f"GRANT {API_ROLE} TO {name} WITH ADMIN OPTION"))
        connection.execute(text(f"CREATE DATABASE {name} OWNER {name}"))
    url = engine.url.set(database=name, username=name, password="x")
    try:
        owner = make_engine(url.render_as_string(hide_password=False))
        schema.migrate(owner)
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
