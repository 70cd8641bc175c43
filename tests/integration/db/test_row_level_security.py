"""The second wall: a query of the API that forgot the tenant still finds nobody else's rows."""

import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from flask.testing import FlaskClient
from sqlalchemy import (
    Column,
    Connection,
    Engine,
    Table,
    and_,
    delete,
    insert,
    inspect,
    select,
    text,
    update,
)
from sqlalchemy.exc import ProgrammingError

from orchestrator.db.migrate import Run
from orchestrator.db.row_security import API_ROLE
from tests.support.factories import a_tenant
from tests.support.row_per_table import Row, Rows, filled

# Tables whose rows are nobody's in particular; every other one needs a policy.
OPEN = {
    "alembic_version": "the API's role may not even read it",
    "queues": "names that workers listen to; `queue_uses` says whose they are",
    "workers": "machines, which work for every tenant",
}
TABLES = [table for table in Run.metadata.sorted_tables if table.name not in OPEN]


@pytest.fixture
def connection(engine: Engine) -> Iterator[Connection]:
    """One transaction that is rolled back."""
    with engine.connect() as connection:
        transaction = connection.begin()
        yield connection
        transaction.rollback()


@pytest.fixture
def ours(connection: Connection) -> Rows:
    """A row of our tenant in every table."""
    return filled(connection, "ours")


@pytest.fixture
def theirs(connection: Connection) -> Rows:
    """A row of another tenant in every table."""
    return filled(connection, "theirs")


def _become_the_api(connection: Connection, tenant_id: object) -> None:
    """Act as the API does, for a tenant; an empty one is none."""
    connection.execute(text(f"SET LOCAL ROLE {API_ROLE}"))
    bind = text("SELECT set_config('orchestrator.tenant', :tenant, true)")
    connection.execute(bind, {"tenant": str(tenant_id)})


def _is(table: Table, row: Row) -> Any:
    """Whether it is this row, by its primary key."""
    return and_(*(column == row[column.name] for column in table.primary_key))


def _refused(connection: Connection, statement: Any) -> bool:
    """Whether the policy does not let a statement write what it would."""
    nested = connection.begin_nested()
    try:
        connection.execute(statement)
    except ProgrammingError as error:
        nested.rollback()
        return "violates row-level security policy" in str(error)
    nested.rollback()
    return False


def _written(connection: Connection, statement: Any) -> int:
    with connection.begin_nested() as nested:
        count: int = connection.execute(statement).rowcount
        nested.rollback()
    return count


def _first(table: Table) -> Column[Any]:
    return next(iter(table.primary_key))


def _visible(connection: Connection, table: Table, row: Row) -> bool:
    return connection.execute(select(_first(table)).where(_is(table, row))).first() is not None


def test_every_table_of_the_database_has_a_wall_or_is_named_as_open(engine: Engine) -> None:
    walled = text("""
        SELECT relname FROM pg_class
        WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p') AND relrowsecurity
        AND EXISTS (SELECT FROM pg_policy WHERE polrelid = pg_class.oid AND polcmd = '*'
            AND polroles = ARRAY[CAST(:role AS regrole)::oid])
    """)
    with engine.connect() as connection:
        found = set(connection.scalars(walled, {"role": API_ROLE}))
        tables = set(inspect(connection).get_table_names())

    missing = tables - found - OPEN.keys()
    assert not missing, f"migrate policies for {missing}, or name them in OPEN with the reason"
    assert found == {table.name for table in TABLES}


def test_a_tenant_sees_its_own_rows_and_no_others(
    connection: Connection, ours: Rows, theirs: Rows
) -> None:
    _become_the_api(connection, ours["tenants"]["id"])

    seen = {
        table.name: (
            _visible(connection, table, ours[table.name]),
            _visible(connection, table, theirs[table.name]),
        )
        for table in TABLES
    }

    assert seen == dict.fromkeys(seen, (True, False))


def test_without_a_tenant_there_is_nothing(connection: Connection, ours: Rows) -> None:
    _become_the_api(connection, "")

    found = {
        table.name: connection.execute(select(_first(table)).limit(1)).all() for table in TABLES
    }
    refused = {
        table.name: _refused(connection, insert(table).values(ours[table.name])) for table in TABLES
    }

    assert not any(found.values())
    assert refused == dict.fromkeys(refused, True)


def test_a_tenant_writes_no_rows_of_another(
    connection: Connection, ours: Rows, theirs: Rows
) -> None:
    _become_the_api(connection, ours["tenants"]["id"])

    refused = {
        table.name: _refused(connection, insert(table).values(theirs[table.name]))
        for table in TABLES
    }
    changed = {
        table.name: (
            _written(connection, _touch(table, theirs[table.name])),
            _written(connection, delete(table).where(_is(table, theirs[table.name]))),
        )
        for table in TABLES
    }

    assert refused == dict.fromkeys(refused, True)
    assert changed == dict.fromkeys(changed, (0, 0))


def test_a_tenant_changes_its_own_rows_but_gives_none_away(
    connection: Connection, ours: Rows, theirs: Rows
) -> None:
    _become_the_api(connection, ours["tenants"]["id"])
    owned = [table for table in TABLES if "tenant_id" in table.columns]

    changed = {
        table.name: _written(connection, _touch(table, ours[table.name])) for table in TABLES
    }
    gift = {"tenant_id": theirs["tenants"]["id"]}
    refused = {
        table.name: _refused(
            connection, update(table).where(_is(table, ours[table.name])).values(gift)
        )
        for table in owned
    }

    assert changed == dict.fromkeys(changed, 1)
    assert len(owned) > 15
    assert refused == dict.fromkeys(refused, True)


def test_the_api_may_not_read_what_it_does_not_need(connection: Connection) -> None:
    _become_the_api(connection, "")

    with pytest.raises(ProgrammingError, match="permission denied"):
        connection.execute(text("SELECT version_num FROM alembic_version"))


def test_the_connections_of_the_api_are_behind_the_wall(
    client: FlaskClient, tenant_id: uuid.UUID
) -> None:
    database = client.application.extensions["orchestrator"].database
    who = text("SELECT current_user, rolsuper, rolbypassrls FROM pg_roles WHERE rolname = :role")

    with database.transaction(tenant_id) as session:
        role = session.execute(who, {"role": API_ROLE}).one()
        mine = a_tenant(session)
    with database.transaction() as session:  # on the same connection
        left = session.execute(text("SELECT id FROM tenants")).all()

    assert tuple(role) == (API_ROLE, False, False)
    assert mine == tenant_id
    assert left == []


def _touch(table: Table, row: Row) -> Any:
    """A change of a row that changes nothing."""
    first = _first(table)
    return update(table).where(_is(table, row)).values({first.name: first})
