"""Statements without SQLAlchemy's session: the same settings, errors and messages as with one."""

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import Engine, text
from sqlalchemy.exc import DBAPIError, IntegrityError, OperationalError

from orchestrator.broker.messages import Outbound
from orchestrator.db import statements
from orchestrator.db.autocommit import Autocommit
from orchestrator.db.database import CommitInDoubt, Database
from orchestrator.db.engine import is_transient, make_engine
from orchestrator.db.unit_of_work import unit_of
from tests.conftest import Services

_MAKE = "INSERT INTO queues (name) VALUES (:name) RETURNING name, now() AS moment"
_END = "SELECT pg_terminate_backend(pg_backend_pid())"
_SETTINGS = """
    SELECT current_setting('jit') AS jit, current_setting('timezone') AS zone,
        current_setting('lock_timeout') AS patience
"""


@pytest.fixture
def sent() -> list[Outbound]:
    return []


@pytest.fixture
def own(services: Services, engine: Engine, sent: list[Outbound]) -> Iterator[Database]:
    """A database with one connection of its own."""
    own = make_engine(services.database_url, pool_size=1, pre_ping=False)
    yield Database(own, sent.append)
    own.dispose()
    with engine.begin() as connection:
        connection.execute(text("DELETE FROM queues WHERE name LIKE 'call%'"))


def test_it_brings_its_settings_and_leaves_none(own: Database) -> None:
    with own.autocommit() as session:
        settings = statements.row(session, _SETTINGS)

    assert settings == ("off", "UTC", "15s")
    connection: Any = own.engine.raw_connection()
    with connection.cursor() as cursor:
        cursor.execute("SHOW lock_timeout")
        assert cursor.fetchone() == ("0",)
    connection.close()


def test_rows_are_those_of_a_session(own: Database) -> None:
    statement = """
        SELECT CAST(:id AS uuid) AS id, CAST(:document AS jsonb) AS document, now() - now() AS none,
            now() AS moment
    """
    params = {"id": "0188d3f0-1111-7abc-8def-000000000001", "document": '{"a": [1, 2.5, null]}'}
    with own.transaction() as session:
        expected = statements.row(session, statement, **params)
    with own.autocommit() as calls:
        row = statements.row(calls, statement, **params)

    assert row is not None
    assert expected is not None
    assert row[:3] == expected[:3]
    assert row.moment.tzinfo == expected.moment.tzinfo


def test_each_statement_is_committed_by_itself(own: Database) -> None:
    def make_two() -> None:
        with own.autocommit() as session:
            statements.row(session, _MAKE, name="call-1")
            raise LookupError

    with pytest.raises(LookupError):
        make_two()

    assert _count(own) == 1


@pytest.mark.parametrize(
    ("statement", "kind"),
    [(_MAKE, IntegrityError), ("SELECT 1 / CAST(:name AS int)", DBAPIError)],
)
def test_errors_are_those_of_a_session(
    own: Database, statement: str, kind: type[DBAPIError]
) -> None:
    params: Any = {"name": "call-1" if kind is IntegrityError else "0"}
    if kind is IntegrityError:
        with own.autocommit() as session:
            statements.row(session, statement, **params)

    def repeat() -> None:
        with own.autocommit() as session:
            statements.row(session, statement, **params)

    with pytest.raises(kind) as caught:
        repeat()

    assert not caught.value.connection_invalidated
    assert not is_transient(caught.value)
    assert own.answers()  # on the same connection


def test_a_connection_that_is_lost_leaves_the_commit_in_doubt(
    own: Database, sent: list[Outbound]
) -> None:
    def lose() -> None:
        with own.autocommit() as session:
            unit_of(session).outbound.revoked.append("task")
            statements.row(session, _END)

    with pytest.raises(CommitInDoubt) as caught:
        lose()

    assert is_transient(caught.value)
    assert sent == []
    assert own.answers()  # by another connection


def test_a_server_that_is_away_is_an_operational_error(services: Services) -> None:
    away = Database(make_engine(f"{services.database_url}_away", pool_size=1), lambda _: None)

    def call() -> None:
        with away.autocommit() as session:
            statements.row(session, "SELECT 1")

    with pytest.raises(OperationalError):
        call()


def test_a_call_in_doubt_is_recovered_or_repeated(own: Database) -> None:
    made: list[str] = []

    def call(session: Autocommit) -> str:
        made.append("call")
        statements.row(session, _END if len(made) == 1 else "SELECT 1")
        return "called"

    def retry(recovered: str | None) -> str:
        made.clear()
        return own.call_with_retry(call, within=timedelta(seconds=30), recover=lambda _: recovered)

    assert (retry("recovered"), len(made)) == ("recovered", 1)
    assert (retry(None), len(made)) == ("called", 2)


def test_messages_are_sent_after_the_call(own: Database, sent: list[Outbound]) -> None:
    with own.autocommit() as session:
        statements.row(session, "SELECT 1")
        unit_of(session).outbound.revoked.append("task")
        assert sent == []

    assert [each.revoked for each in sent] == [["task"]]


def _count(database: Database) -> int:
    with database.transaction() as session:
        row = statements.row(session, "SELECT count(*) FROM queues WHERE name LIKE 'call%'")
        return int(row[0]) if row else 0
