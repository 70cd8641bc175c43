"""Real services for every test that needs them: those of the environment, else embedded ones."""

import os
import socket
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import Connection, Engine, create_engine, make_url, text
from sqlalchemy.orm import Session

from api.app import create_app
from config.settings import Settings
from orchestrator.access import tenants
from orchestrator.broker.messages import Outbound
from orchestrator.db.database import Database
from orchestrator.db.engine import make_engine
from orchestrator.db.migrate import Run
from orchestrator.local import stack
from orchestrator.local.services import start_services
from tests.support.factories import KEY, a_tenant
from tests.support.openapi import Answer, documents, recorded

_KEPT_TABLES = ("alembic_version", "tenants", "projects", "keys")  # made once, needed by every test

# The trigger that keeps the entries is off while they are deleted, if there are any.
_UNLOCK_AUDIT = """
    DO $$ BEGIN
      IF EXISTS (SELECT FROM audit) THEN ALTER TABLE audit DISABLE TRIGGER USER; END IF;
    END $$
"""
_LOCK_AUDIT = """
    DO $$ BEGIN
      IF EXISTS (SELECT FROM pg_trigger WHERE tgrelid = 'audit'::regclass AND tgenabled = 'D') THEN
        ALTER TABLE audit ENABLE TRIGGER USER;
      END IF;
    END $$
"""


@dataclass(frozen=True)
class Services:
    """The URLs of Postgres and Redis."""

    database_url: str
    redis_url: str


@contextmanager
def own_services() -> Iterator[Services]:
    """A new migrated database, and a Redis."""
    # Not pytest's folder: the next session makes it unreadable for the user that runs Postgres.
    folder = TemporaryDirectory(prefix="orchestrator-test-", ignore_cleanup_errors=True)
    settings = replace(Settings.from_env(_service_urls()), data_dir=Path(folder.name))
    with (
        folder,
        start_services(settings) as environ,
        _own_database(environ) as database_url,
    ):
        stack.prepare_database(database_url, KEY)
        yield Services(database_url, environ["ORCHESTRATOR_REDIS_URL"])


@pytest.fixture(scope="session")
def services() -> Iterator[Services]:
    """Those of this test session."""
    with own_services() as services:
        yield services


@pytest.fixture(scope="session")
def engine(services: Services) -> Iterator[Engine]:
    """Connections to the test database."""
    engine = make_engine(services.database_url, pool_size=20)
    yield engine
    engine.dispose()


@pytest.fixture
def sent() -> list[Outbound]:
    """What the transactions of `database` passed to the broker."""
    return []


@pytest.fixture
def database(engine: Engine, sent: list[Outbound]) -> Iterator[Database]:
    """Real commits, for tests in which processes race; the tables are empty again afterwards."""
    yield Database(engine, sent.append)
    with engine.begin() as connection:
        empty(connection)


def empty(connection: Connection) -> None:
    """Delete all rows of a test; with many tables, mostly empty, faster than TRUNCATE."""
    tables = [table.name for table in reversed(Run.metadata.sorted_tables)]
    last = ["tally_changes", "backlog_changes"]  # filled by triggers during the deletes
    deletes = [f"DELETE FROM {name}" for name in [*tables, *last] if name not in _KEPT_TABLES]
    patience = "SET LOCAL lock_timeout = '60s'"  # a request of the test may still be at work
    connection.exec_driver_sql(";".join([patience, _UNLOCK_AUDIT, *deletes, _LOCK_AUDIT]))


@pytest.fixture
def session(engine: Engine) -> Iterator[Session]:
    """One transaction that is rolled back, for tests with one writer."""
    with engine.connect() as connection:
        transaction = connection.begin()
        with Session(connection, join_transaction_mode="create_savepoint") as session:
            yield session
        transaction.rollback()


@pytest.fixture
def tenant_id(engine: Engine) -> uuid.UUID:
    """The tenant `default`."""
    with Session(engine) as session:
        return a_tenant(session)


@pytest.fixture
def other_tenant(engine: Engine) -> Iterator[uuid.UUID]:
    """Another tenant; a test names it before `database`, whose rows are deleted first."""
    with Session(engine) as session, session.begin():
        tenant_id = tenants.create_tenant(session, f"other {uuid.uuid4()}")[0].id
    yield tenant_id
    with engine.begin() as connection:
        for table, column in (("keys", "tenant_id"), ("projects", "tenant_id"), ("tenants", "id")):
            connection.execute(text(f"DELETE FROM {table} WHERE {column} = :id"), {"id": tenant_id})


@pytest.fixture(scope="session")
def settings(services: Services, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """The settings of an API over the test services."""
    return Settings(
        database_url=services.database_url,
        redis_url=services.redis_url,
        data_dir=tmp_path_factory.mktemp("data"),
        connections=4,
        queue_timeout=timedelta(seconds=10),  # races of many threads are no overload here
    )


@pytest.fixture(scope="session")
def app(settings: Settings) -> Iterator[Flask]:
    """One API for all tests: creating it takes longer than most of them."""
    app = create_app(settings)
    yield app
    app.extensions["orchestrator"].database.engine.dispose()
    app.extensions["orchestrator"].unscoped_database.engine.dispose()


@pytest.fixture(autouse=True)
def answers() -> Iterator[list[Answer]]:
    """What the API answers during the test; each answer is as the documents say."""
    with recorded() as answers:
        yield answers
    mistakes = [mistake for answer in {*answers} for mistake in documents().mistakes(answer)]
    assert not mistakes, "\n".join(mistakes[:20])


@pytest.fixture
def client(app: Flask, database: Database) -> FlaskClient:
    """An API in this process, with the admin key; no worker executes its runs."""
    client = app.test_client()
    client.environ_base["HTTP_AUTHORIZATION"] = f"Bearer {KEY}"
    return client


@pytest.fixture
def anyone(client: FlaskClient) -> FlaskClient:
    """The same API without a key."""
    return client.application.test_client(use_cookies=False)  # a header says which it has


@pytest.fixture
def open_client(settings: Settings, database: Database) -> Iterator[FlaskClient]:
    """An API that allows private targets and mail."""
    app = create_app(
        replace(
            settings,
            allow_private_targets=True,
            smtp_url="smtp://127.0.0.1",
            secret_key="s" * 32,
        )
    )
    client = app.test_client()
    client.environ_base["HTTP_AUTHORIZATION"] = f"Bearer {KEY}"
    yield client
    app.extensions["orchestrator"].database.engine.dispose()
    app.extensions["orchestrator"].unscoped_database.engine.dispose()


@pytest.fixture
def no_keys_left(engine: Engine) -> Iterator[None]:
    """Delete all keys but the admin's after the test."""
    yield
    with engine.begin() as connection:
        connection.execute(text("DELETE FROM keys WHERE name <> 'admin'"))


@pytest.fixture(autouse=True)
def _no_network_in_unit_tests(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    if "unit" in Path(str(request.path)).parts:
        monkeypatch.setattr(socket.socket, "connect", _refuse)


def _refuse(*_: object) -> None:
    raise AssertionError("a unit test reaches for the network")


def _service_urls() -> dict[str, str]:
    names = ("ORCHESTRATOR_DATABASE_URL", "ORCHESTRATOR_REDIS_URL")
    return {name: os.environ[name] for name in names if name in os.environ}


@contextmanager
def _own_database(environ: dict[str, str]) -> Iterator[str]:
    """A new database on the server; existing ones are not touched."""
    url = make_url(environ["ORCHESTRATOR_DATABASE_URL"])
    name = f"orchestrator_test_{uuid.uuid4().hex[:8]}"
    server = create_engine(url, isolation_level="AUTOCOMMIT")
    with server.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
    try:
        yield url.set(database=name).render_as_string(hide_password=False)
    finally:
        with server.connect() as connection:
            connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))
        server.dispose()
