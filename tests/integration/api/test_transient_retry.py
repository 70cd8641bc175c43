"""Transient database errors: requests are retried, and have their effect once."""

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from flask import Flask
from flask.testing import FlaskClient
from psycopg2.extensions import TRANSACTION_STATUS_IDLE
from sqlalchemy import Connection, Engine, event, func, select, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session
from werkzeug.test import TestResponse

from api.app import create_app
from config.settings import Settings
from orchestrator.broker.messages import Outbound
from orchestrator.db import round_trips
from orchestrator.db.database import CommitInDoubt, Database
from orchestrator.db.engine import is_transient, is_unavailable, make_engine
from orchestrator.local import processes
from orchestrator.models import Run
from tests.contracts.adapters import ADAPTERS
from tests.support.factories import KEY, a_run, a_spec, eventually, the_events, the_run

RUNS = "/api/v1/runs"
ADDRESSES = {
    "opendatadsl": "/api/process-exec/v1",
    "solvexia": "/api/v1/processes",
    "mage": "/api/pipeline_runs",
    "mindzie": f"/api/{uuid4()}/{uuid4()}/execution/jobs",
    "virtuousai": "/api/v1/automation-runs",
}


class Knife:
    """Terminates connections from outside, at given statements."""

    def __init__(self, engine: Engine, cut: Engine) -> None:
        self._engine, self._cut = engine, cut
        self.used = 0

    @contextmanager
    def after_statement(self, number: int) -> Iterator[None]:
        """Once, after the statement with this number."""
        seen = 0

        def count(connection: Connection, *_: Any) -> None:
            nonlocal seen
            seen += 1
            if seen == number:
                self._terminate(connection)

        with self._hooked("after_cursor_execute", count):
            yield

    @contextmanager
    def at_commit(self, *, done: bool, which: int = 1) -> Iterator[None]:
        """Once: before the COMMIT is sent, or after it was `done`, so that its result is lost."""
        seen = 0

        def cut(connection: Connection, cursor: Any, statement: str, *_: Any) -> None:
            nonlocal seen
            seen += round_trips.is_commit(statement)
            if seen == which and round_trips.is_commit(statement):
                self._terminate(connection)
                if done:
                    cursor.execute("SELECT 1")  # fails like the lost result of the COMMIT

        with self._hooked("after_cursor_execute" if done else "before_cursor_execute", cut):
            yield

    @contextmanager
    def at_every_commit(self) -> Iterator[None]:
        """Before each COMMIT is sent."""

        def cut(connection: Connection, cursor: Any, statement: str, *_: Any) -> None:
            if round_trips.is_commit(statement):
                self._terminate(connection)

        with self._hooked("before_cursor_execute", cut):
            yield

    @contextmanager
    def _hooked(self, name: str, hook: Callable[..., None]) -> Iterator[None]:
        event.listen(self._cut, name, hook)
        try:
            yield
        finally:
            event.remove(self._cut, name, hook)

    def _terminate(self, connection: Connection) -> None:
        psycopg2: Any = connection.connection.dbapi_connection
        if psycopg2.info.transaction_status == TRANSACTION_STATUS_IDLE:
            # Behind a pooler there is no session of its own now.
            with socket.socket(fileno=os.dup(psycopg2.fileno())) as end:
                end.shutdown(socket.SHUT_RDWR)
        else:
            with psycopg2.cursor() as cursor:
                cursor.execute("SELECT pg_backend_pid()")
                (pid,) = cursor.fetchone()
            with self._engine.connect() as other:
                other.execute(text("SELECT pg_terminate_backend(:pid, 5000)"), {"pid": pid})
        self.used += 1


@pytest.fixture
def knife(app: Flask, engine: Engine) -> Knife:
    """For the connections of the API's transactions."""
    return Knife(engine, app.extensions["orchestrator"].database.engine)


def _submit(client: FlaskClient, **headers: str) -> TestResponse:
    return client.post(RUNS, json={"workflow": "work"}, headers=headers)


def _count(database: Database) -> int:
    with database.transaction() as session:
        return session.scalars(select(func.count()).select_from(Run)).one()


@pytest.fixture
def work(client: FlaskClient) -> None:
    """The workflow of these tests."""
    client.post("/api/v1/workflows", json=a_spec())


@pytest.mark.usefixtures("work")
def test_a_submit_cut_after_any_of_its_statements_makes_one_run(
    client: FlaskClient, knife: Knife, database: Database
) -> None:
    with knife.after_statement(1):  # the one that reads the version, which is kept then
        assert _submit(client).status_code == 201
    replies: list[TestResponse] = []
    while knife.used == 1 + len(replies):
        with knife.after_statement(len(replies) + 1):
            replies.append(_submit(client))

    # A connection cut right before the COMMIT leaves the commit in doubt.
    outcomes = [(reply.status_code, reply.json.get("code")) for reply in replies]
    assert outcomes.count((503, "in_doubt")) == 1
    assert outcomes.count((201, None)) == len(outcomes) - 1 >= 2
    assert _count(database) == 1 + outcomes.count((201, None))


@pytest.mark.usefixtures("work")
@pytest.mark.parametrize("done", [False, True])
def test_a_commit_in_doubt_is_repeated_only_under_an_idempotency_key(
    client: FlaskClient, knife: Knife, database: Database, done: bool
) -> None:
    with knife.at_commit(done=done):
        bare = _submit(client)
    after_bare = _count(database)
    with knife.at_commit(done=done):
        keyed = _submit(client, **{"Idempotency-Key": "once"})

    assert (bare.status_code, bare.json["code"]) == (503, "in_doubt")
    assert "may have been done" in bare.json["detail"]
    assert "Retry-After" not in bare.headers  # the client must check first
    assert after_bare == int(done)
    assert keyed.status_code == 201
    assert _count(database) == after_bare + 1
    assert keyed.headers.get("Idempotent-Replayed") == ("true" if done else None)
    assert knife.used == 2


@pytest.mark.usefixtures("work")
def test_a_request_with_a_key_that_never_hears_of_its_commit_is_in_doubt_in_the_end(
    client: FlaskClient, knife: Knife, database: Database
) -> None:
    with knife.at_every_commit():
        reply = _submit(client, **{"Idempotency-Key": "once"})

    assert (reply.status_code, reply.json["code"]) == (503, "in_doubt")
    assert knife.used == 5
    assert _submit(client, **{"Idempotency-Key": "once"}).status_code == 201
    assert _count(database) == 1


@pytest.mark.usefixtures("work")
def test_who_waits_for_a_run_waits_on_when_a_look_at_it_is_cut(
    client: FlaskClient, knife: Knife, database: Database
) -> None:
    with knife.at_commit(done=False, which=2):  # the first one made the run
        reply = client.post(f"{RUNS}?wait=0.1", json={"workflow": "work"})

    assert (reply.status_code, reply.json["state"]) == (201, "queued")
    assert (knife.used, _count(database)) == (1, 1)


def test_whoever_meets_a_lock_that_stays_is_told_so_and_when_to_come_again(
    client: FlaskClient, app: Flask, database: Database, engine: Engine
) -> None:
    run = a_run(database)
    ours = app.extensions["orchestrator"].database.engine

    def hurry(connection: Connection) -> None:
        connection.exec_driver_sql("SET LOCAL lock_timeout = '50ms'")

    event.listen(ours, "begin", hurry)
    try:
        with engine.begin() as holder:
            holder.execute(text("SELECT FROM runs WHERE id = :id FOR UPDATE"), {"id": run.id})
            reply = client.post(f"{RUNS}/{run.id}/cancel")
    finally:
        event.remove(ours, "begin", hurry)

    assert (reply.status_code, reply.json["code"]) == (503, "unavailable")
    assert reply.json["detail"] == "the database cannot do this now; try again"
    assert reply.headers["Retry-After"] == "2"
    assert client.post(f"{RUNS}/{run.id}/cancel").status_code == 200


def test_a_retry_in_doubt_is_done_once_under_an_idempotency_key(
    client: FlaskClient, knife: Knife, database: Database
) -> None:
    run = a_run(database)
    client.post(f"{RUNS}/{run.id}/cancel")

    with knife.at_commit(done=True):
        reply = client.post(
            f"{RUNS}/{run.id}/retry", json={"mode": "full"}, headers={"Idempotency-Key": "once"}
        )

    assert (reply.status_code, reply.json["state"]) == (200, "queued")
    assert the_events(database, run).count("run.reopened") == 1


def test_a_read_is_repeated_wherever_it_is_cut(
    client: FlaskClient, knife: Knife, database: Database
) -> None:
    run = a_run(database)
    replies = []
    for number in (1, 2):
        with knife.after_statement(number):
            replies.append(client.get(f"{RUNS}/{run.id}"))
    with knife.at_commit(done=False):
        replies.append(client.get(RUNS))

    assert [reply.status_code for reply in replies] == [200] * 3
    assert knife.used == 3


@pytest.mark.usefixtures("work")
def test_a_try_that_was_rolled_back_sends_no_message(
    client: FlaskClient, app: Flask, knife: Knife, database: Database
) -> None:
    parts = app.extensions["orchestrator"]
    sent: list[Outbound] = []
    broker, parts.database._deliver = parts.database._deliver, sent.append
    try:
        with knife.at_commit(done=False):
            reply = _submit(client, **{"Idempotency-Key": "one message"})
    finally:
        parts.database._deliver = broker

    assert reply.status_code == 201
    ((head, _),) = [pair for each in sent for pair in each.messages]
    assert head.task_id.startswith(reply.json["steps"][0]["id"])


def test_a_deadlock_of_a_request_is_repeated(
    client: FlaskClient, database: Database, engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    run = a_run(database)
    replies: list[TestResponse] = []
    cancel = threading.Thread(
        target=lambda: replies.append(client.post(f"{RUNS}/{run.id}/cancel", json={}))
    )

    with engine.begin() as other:
        other.execute(text("SET LOCAL deadlock_timeout = '30s'"))  # so that the API is the victim
        other.execute(text("SELECT FROM steps WHERE run_id = :id FOR UPDATE"), {"id": run.id})
        cancel.start()
        eventually(lambda: _waits_for_a_lock(engine))  # holding the lock of the run
        other.execute(text("SELECT FROM runs WHERE id = :id FOR UPDATE"), {"id": run.id})
    cancel.join(20)

    assert replies[0].status_code == 200
    assert the_run(database, run).state == "cancelled"
    assert the_events(database, run).count("run.cancelled") == 1
    assert any("deadlock detected" in getattr(each, "error", "") for each in caplog.records)


def _waits_for_a_lock(engine: Engine) -> bool:
    statement = """
        SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()
        AND application_name = 'orchestrator-api' AND wait_event_type = 'Lock'
    """
    with engine.connect() as connection:
        return bool(connection.scalar(text(statement)))


def test_a_transaction_says_whether_its_commit_is_in_doubt(
    database: Database, engine: Engine
) -> None:
    own = Database(make_engine(engine.url.render_as_string(hide_password=False)), lambda _: None)
    knife = Knife(engine, own.engine)
    knives = (knife.after_statement(1), knife.at_commit(done=True))
    errors = []
    for cut in knives:
        with pytest.raises(DBAPIError) as raised, cut:
            own.run_with_retry(_say_twice, within=timedelta(0))
        errors.append(raised.value)
    own.engine.dispose()

    assert [isinstance(error, CommitInDoubt) for error in errors] == [False, True]
    assert all(is_transient(error) and is_unavailable(error) for error in errors)


@pytest.mark.parametrize("code", ["53100", "40001"])
def test_what_postgres_refuses_for_now_is_asked_again(database: Database, code: str) -> None:
    tries = []

    def work(session: Session) -> int:
        tries.append(code)
        if len(tries) == 1:
            raising = f"DO $$ BEGIN RAISE EXCEPTION USING ERRCODE = '{code}'; END $$"
            session.execute(text(raising))
        return session.scalars(text("SELECT 1")).one()

    assert database.run_with_retry(work, within=timedelta(seconds=5)) == 1
    assert len(tries) == 2


def test_a_connection_to_a_server_that_only_reads_now_is_left(engine: Engine) -> None:
    url = engine.url.render_as_string(hide_password=False)
    own = Database(make_engine(url, pool_size=1), lambda _: None)
    with own.transaction() as session:  # as after a failover that did not end the connection
        session.execute(text("SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY"))

    def work(session: Session) -> None:
        session.execute(text("DELETE FROM queues WHERE name = 'nobody'"))

    own.run_with_retry(work, within=timedelta(seconds=5))
    own.engine.dispose()


def _say_twice(session: Session) -> None:
    session.execute(text("SELECT 1"))
    session.execute(text("SELECT 2"))


@pytest.fixture
def deserted(settings: Settings) -> FlaskClient:
    """An API without a Postgres at its address."""
    url = f"postgresql+psycopg2://nobody@127.0.0.1:{processes.free_port()}/nothing"
    app = create_app(replace(settings, database_url=url))
    client = app.test_client()
    client.environ_base["HTTP_AUTHORIZATION"] = f"Bearer {KEY}"
    return client


def test_without_postgres_every_api_says_so_in_its_own_form_and_soon(deserted: FlaskClient) -> None:
    start = time.monotonic()
    replies = {each: deserted.get(ADDRESSES[each.name]) for each in ADAPTERS}
    native = deserted.get(RUNS)
    took = (time.monotonic() - start) / (len(replies) + 1)

    assert [adapter.refusal(reply) for adapter, reply in replies.items()] == [503] * len(ADAPTERS)
    assert (native.status_code, native.json["code"]) == (503, "unavailable")
    for reply in (native, *replies.values()):
        assert reply.headers["Retry-After"]
    assert took < 10
    assert deserted.get("/readyz").status_code == 503
    assert deserted.get("/healthz").status_code == 200
