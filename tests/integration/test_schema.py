"""Migrations make what the models say, and an old schema is refused with the mend."""

import pytest
from sqlalchemy import Engine, make_url, text

from orchestrator import schema
from orchestrator.db import make_engine
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
