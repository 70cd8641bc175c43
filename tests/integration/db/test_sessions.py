"""The settings of our transactions override those of the server, and leave nothing behind."""

import contextlib
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import Connection, Engine, create_engine, text
from sqlalchemy.exc import DBAPIError

from orchestrator.db.engine import make_engine
from orchestrator.db.row_security import API_ROLE

# Of another server.
ELSEWHERE = {
    "jit": "on",
    "jit_above_cost": "0",
    "intervalstyle": "iso_8601",
    "datestyle": "'SQL, DMY'",
    "timezone": "'Asia/Kathmandu'",
    "enable_seqscan": "on",
}


@pytest.fixture
def elsewhere(engine: Engine) -> Iterator[str]:
    """The URL of a database with other settings than ours."""
    name = f"elsewhere_{uuid4().hex[:8]}"
    server = create_engine(engine.url, isolation_level="AUTOCOMMIT")
    with server.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
        for setting, value in ELSEWHERE.items():
            connection.execute(text(f"ALTER DATABASE {name} SET {setting} = {value}"))
        connection.execute(text(f"GRANT CONNECT ON DATABASE {name} TO {API_ROLE}"))
    try:
        yield engine.url.set(database=name).render_as_string(hide_password=False)
    finally:
        with server.connect() as connection:
            connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))
        server.dispose()


KINDS: list[dict[str, Any]] = [{}, {"durable": False}, {"role": API_ROLE}, {"alone": True}]


@pytest.fixture(params=KINDS, ids=str)
def ours(request: pytest.FixtureRequest, elsewhere: str) -> Iterator[Engine]:
    """One connection there, of each kind."""
    ours = make_engine(elsewhere, pool_size=1, **request.param)
    yield ours
    ours.dispose()


def test_no_statement_is_compiled_and_times_are_read_on_any_server(ours: Engine) -> None:
    moment = datetime(2026, 12, 1, 13, 30, 0, 250_000, tzinfo=UTC)
    longer = timedelta(days=40, hours=5, microseconds=7)
    with ours.connect() as connection:
        assert connection.scalar(text("SHOW jit")) == "off"
        read = connection.execute(
            text("SELECT CAST(:moment AS timestamptz), CAST(:longer AS interval)"),
            {"moment": moment, "longer": longer},
        ).one()
        assert read == (moment, longer)
        assert read[0].isoformat() == moment.isoformat()
        assert connection.scalar(text("SELECT interval '-1 day 2 hours'")) == timedelta(
            days=-1, hours=2
        )


@pytest.mark.parametrize("isolation_level", ["READ COMMITTED", "AUTOCOMMIT"])
def test_each_transaction_brings_its_settings_and_leaves_none(
    ours: Engine, isolation_level: str
) -> None:
    for _ in range(2):
        with ours.connect() as connection:
            before = _settings(connection)
        with ours.connect().execution_options(isolation_level=isolation_level) as connection:
            assert _settings(connection) == before
            psycopg2: Any = connection.connection.dbapi_connection
            connection.rollback()
            with psycopg2.cursor() as cursor:  # in the session, outside of any transaction
                cursor.execute(_SHOW)
                left = cursor.fetchone()
        assert left[:3] == ("on", "0", "none")
        assert before[:2] == ("off", "1min")


_SHOW = """
    SELECT current_setting('jit'), current_setting('statement_timeout'), current_setting('role'),
        current_setting('synchronous_commit'), current_setting('lock_timeout')
"""


def _settings(connection: Connection) -> tuple[Any, ...]:
    return tuple(connection.execute(text(_SHOW)).one())


def test_a_role_is_never_left_out(elsewhere: str) -> None:
    api = make_engine(elsewhere, pool_size=1, role=API_ROLE)
    who = text("SELECT current_user")
    with api.connect() as connection:
        assert connection.scalar(who) == API_ROLE
        connection.commit()
        assert connection.scalar(who) == API_ROLE
        connection.rollback()
        assert connection.scalar(who) == API_ROLE
    with api.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        assert connection.scalar(who) == API_ROLE
        with contextlib.suppress(DBAPIError):
            connection.execute(text("SELECT 1 / 0"))
        assert connection.scalar(who) == API_ROLE
    api.dispose()
