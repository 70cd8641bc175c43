"""Row-level security: a query of the API without a tenant's condition sees no other rows."""

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

# Tables without a tenant; every other one needs a policy.
WITHOUT_TENANT = {
    "alembic_version": "the API's role may not read it",
    "queues": "the tenants of a queue are in `queue_uses`",
    "workers": "for every tenant",
    "worker_starts": "for every tenant",
    "schedulers": "for every tenant",
}
KEPT = ("audit", "audit_heads")  # the API adds to the one, and reads the other
TABLES = [table for table in Run.metadata.sorted_tables if table.name not in WITHOUT_TENANT]


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


def _act_as_the_api(connection: Connection, tenant_id: object) -> None:
    """Act as the API's role for a tenant; the empty string is none."""
    connection.execute(text(f"SET LOCAL ROLE {API_ROLE}"))
    bind = text("SELECT set_config('orchestrator.tenant', :tenant, true)")
    connection.execute(bind, {"tenant": str(tenant_id)})


def _is(table: Table, row: Row) -> Any:
    """The condition that it is this row, by primary key."""
    return and_(*(column == row[column.name] for column in table.primary_key))


def _refused(connection: Connection, statement: Any) -> bool:
    """Whether a policy, or a missing privilege, refuses a statement's write."""
    nested = connection.begin_nested()
    try:
        connection.execute(statement)
    except ProgrammingError as error:
        nested.rollback()
        reasons = ("violates row-level security policy", "permission denied for table audit")
        return any(reason in str(error) for reason in reasons)
    nested.rollback()
    return False


def _row_count(connection: Connection, statement: Any) -> int:
    if statement.table.name in KEPT:
        assert _refused(connection, statement)
        return 0
    with connection.begin_nested() as nested:
        count: int = connection.execute(statement).rowcount
        nested.rollback()
    return count


def _first(table: Table) -> Column[Any]:
    return next(iter(table.primary_key))


def _visible(connection: Connection, table: Table, row: Row) -> bool:
    return connection.execute(select(_first(table)).where(_is(table, row))).first() is not None


def test_every_table_has_row_level_security_or_is_named_as_without_tenant(engine: Engine) -> None:
    statement = text("""
        SELECT relname FROM pg_class
        WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p') AND relrowsecurity
        AND EXISTS (SELECT FROM pg_policy WHERE polrelid = pg_class.oid AND polcmd = '*'
            AND polroles = ARRAY[CAST(:role AS regrole)::oid])
    """)
    with engine.connect() as connection:
        secured = set(connection.scalars(statement, {"role": API_ROLE}))
        tables = set(inspect(connection).get_table_names())

    missing = tables - secured - WITHOUT_TENANT.keys()
    assert not missing, f"migrate policies for {missing}, or name them in WITHOUT_TENANT"
    assert secured == {table.name for table in TABLES}


def test_a_tenant_sees_its_own_rows_and_no_others(
    connection: Connection, ours: Rows, theirs: Rows
) -> None:
    _act_as_the_api(connection, ours["tenants"]["id"])

    seen = {
        table.name: (
            _visible(connection, table, ours[table.name]),
            _visible(connection, table, theirs[table.name]),
        )
        for table in TABLES
    }

    assert seen == dict.fromkeys(seen, (True, False))


def test_without_a_tenant_no_rows_are_visible(connection: Connection, ours: Rows) -> None:
    _act_as_the_api(connection, "")

    visible = {
        table.name: connection.execute(select(_first(table)).limit(1)).all() for table in TABLES
    }
    refused = {
        table.name: _refused(connection, insert(table).values(ours[table.name])) for table in TABLES
    }

    assert not any(visible.values())
    assert refused == dict.fromkeys(refused, True)


def test_a_tenant_writes_no_rows_of_another(
    connection: Connection, ours: Rows, theirs: Rows
) -> None:
    _act_as_the_api(connection, ours["tenants"]["id"])

    refused = {
        table.name: _refused(connection, insert(table).values(theirs[table.name]))
        for table in TABLES
    }
    changed = {
        table.name: (
            _row_count(connection, _touch(table, theirs[table.name])),
            _row_count(connection, delete(table).where(_is(table, theirs[table.name]))),
        )
        for table in TABLES
    }

    assert refused == dict.fromkeys(refused, True)
    assert changed == dict.fromkeys(changed, (0, 0))


def test_a_tenant_changes_its_own_rows_but_gives_none_away(
    connection: Connection, ours: Rows, theirs: Rows
) -> None:
    _act_as_the_api(connection, ours["tenants"]["id"])
    owned = [table for table in TABLES if "tenant_id" in table.columns]

    changed = {
        table.name: _row_count(connection, _touch(table, ours[table.name])) for table in TABLES
    }
    values = {"tenant_id": theirs["tenants"]["id"]}
    refused = {
        table.name: _refused(
            connection, update(table).where(_is(table, ours[table.name])).values(values)
        )
        for table in owned
    }

    assert changed == {name: int(name not in KEPT) for name in changed}
    assert len(owned) > 15
    assert refused == dict.fromkeys(refused, True)


def test_the_api_may_not_read_what_it_does_not_need(connection: Connection) -> None:
    _act_as_the_api(connection, "")

    with pytest.raises(ProgrammingError, match="permission denied"):
        connection.execute(text("SELECT version_num FROM alembic_version"))


def test_the_connections_of_the_api_are_bound_by_the_policies(
    client: FlaskClient, tenant_id: uuid.UUID
) -> None:
    database = client.application.extensions["orchestrator"].database
    query = text("SELECT current_user, rolsuper, rolbypassrls FROM pg_roles WHERE rolname = :role")

    with database.transaction(tenant_id) as session:
        role = session.execute(query, {"role": API_ROLE}).one()
        own = a_tenant(session)
    with database.transaction() as session:  # on the same connection
        others = session.execute(text("SELECT id FROM tenants")).all()

    assert tuple(role) == (API_ROLE, False, False)
    assert own == tenant_id
    assert others == []


def _touch(table: Table, row: Row) -> Any:
    """An update of a row that changes no value."""
    first = _first(table)
    return update(table).where(_is(table, row)).values({first.name: first})
