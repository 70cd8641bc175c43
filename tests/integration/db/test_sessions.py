"""Our sessions' settings override those of the server."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest
from sqlalchemy import Engine, text

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
    server = make_engine(engine.url.render_as_string(hide_password=False)).execution_options(
        isolation_level="AUTOCOMMIT"
    )
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


@pytest.mark.parametrize(
    "options", [{}, {"durable": False}, {"role": API_ROLE}, {"alone": True}], ids=str
)
def test_no_statement_is_compiled_and_times_are_read_on_any_server(
    elsewhere: str, options: dict[str, object]
) -> None:
    moment = datetime(2026, 12, 1, 13, 30, 0, 250_000, tzinfo=UTC)
    longer = timedelta(days=40, hours=5, microseconds=7)
    ours = make_engine(elsewhere, **options)  # type: ignore[arg-type]
    try:
        with ours.connect() as connection:
            assert connection.scalar(text("SHOW jit")) == "off"
            read = connection.execute(
                text("SELECT CAST(:moment AS timestamptz), CAST(:longer AS interval)"),
                {"moment": moment, "longer": longer},
            ).one()
            assert read == (moment, longer)
            assert connection.scalar(text("SELECT interval '-1 day 2 hours'")) == timedelta(
                days=-1, hours=2
            )
    finally:
        ours.dispose()
