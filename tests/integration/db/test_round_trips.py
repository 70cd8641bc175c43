"""BEGIN and COMMIT travel with their neighbours, and a transaction is one as before."""

from collections.abc import Iterator

import pytest
from sqlalchemy import Engine, event, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from orchestrator.db import round_trips, statements
from orchestrator.db.database import Database
from orchestrator.db.engine import make_engine
from tests.conftest import Services

_MAKE = "INSERT INTO queues (name) VALUES (:name)"
_COUNT = text("SELECT count(*) FROM queues WHERE name LIKE 'trip%'")
_OPEN = text("""
    SELECT count(*) FROM pg_stat_activity
    WHERE application_name = 'trips' AND state LIKE 'idle in transaction%'
""")


@pytest.fixture
def own(services: Services, engine: Engine) -> Iterator[Engine]:
    """One connection of its own."""
    own = make_engine(services.database_url, pool_size=1, name="trips")
    yield own
    own.dispose()
    with engine.begin() as connection:
        connection.execute(text("DELETE FROM queues WHERE name LIKE 'trip%'"))


@pytest.fixture
def messages(own: Engine) -> list[str]:
    """The statements of each round trip."""
    sent: list[str] = []

    def record(_: object, __: object, statement: str, *___: object) -> None:
        sent.append(statement)

    event.listen(own, "before_cursor_execute", record)
    return sent


def test_begin_and_commit_cost_no_round_trip_of_their_own(own: Engine, messages: list[str]) -> None:
    database = Database(own, lambda _: None)
    with database.transaction() as session:
        statements.rows(session, "SELECT name FROM queues")
        statements.execute_at_commit(session, _MAKE, name="trip-1")

    assert [each.partition(" ")[0] for each in messages] == ["BEGIN;", "INSERT"]
    assert messages[-1].endswith("; COMMIT")
    assert _count(own) == 1


def test_a_transaction_without_statements_makes_no_round_trip(
    own: Engine, messages: list[str]
) -> None:
    with Database(own, lambda _: None).transaction():
        pass

    assert messages == []


def test_what_fails_with_the_last_statement_leaves_nothing(own: Engine) -> None:
    def make_twice() -> None:
        with Database(own, lambda _: None).transaction() as session:
            statements.execute(session, _MAKE, name="trip-1")
            statements.execute_at_commit(session, _MAKE, name="trip-1")

    with pytest.raises(DBAPIError):
        make_twice()

    assert _count(own) == 0


def test_what_is_rolled_back_leaves_nothing(own: Engine) -> None:
    def fail() -> None:
        with Database(own, lambda _: None).transaction() as session:
            statements.execute(session, _MAKE, name="trip-1")
            statements.execute_at_commit(session, _MAKE, name="trip-2")
            raise LookupError

    with pytest.raises(LookupError):
        fail()

    assert _count(own) == 0


def test_what_was_put_off_before_a_rollback_is_not_said_later(own: Engine) -> None:
    with own.connect() as connection:
        transaction = connection.begin()
        round_trips.append_to_commit(connection, "INSERT INTO queues (name) VALUES ('trip-1')", ())
        transaction.rollback()
        with connection.begin():
            connection.execute(text("SELECT 1"))

    assert _count(own) == 0


def test_a_part_that_is_rolled_back_leaves_the_rest(own: Engine) -> None:
    with Session(own) as session, session.begin():
        statements.execute(session, _MAKE, name="trip-1")
        part = session.begin_nested()
        statements.execute(session, _MAKE, name="trip-2")
        part.rollback()

    assert _count(own) == 1


def test_many_rows_at_once_are_of_one_transaction(own: Engine) -> None:
    rows = [{"name": "trip-1"}, {"name": "trip-2"}]
    with own.connect() as connection, connection.begin() as transaction:
        connection.execute(text(_MAKE), rows)
        transaction.rollback()

    assert _count(own) == 0


def test_a_connection_that_was_let_go_in_the_middle_has_nothing_open(
    own: Engine, engine: Engine
) -> None:
    connection = own.connect()
    connection.execute(text(_MAKE), {"name": "trip-1"})
    connection.connection.close()  # to the pool, as when it is forgotten

    with engine.connect() as other:
        assert other.scalar(_OPEN) == 0
    assert _count(own) == 0


def _count(engine: Engine) -> int:
    with engine.connect() as connection:
        return int(connection.scalar(_COUNT) or 0)
