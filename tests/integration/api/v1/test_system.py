"""`/workers`, `/queues` and `/system/status` of one of several tenants."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from flask.testing import FlaskClient
from sqlalchemy import Engine, text

from api.app import create_app
from config.settings import Settings
from orchestrator import runs, workflows
from orchestrator.broker.messages import Outbound
from orchestrator.db.database import Database
from orchestrator.maintenance import sweeps
from orchestrator.models import Project, Tenant
from tests.integration.monitoring.test_status import HOST, STARTED, a_report, say
from tests.support.factories import KEY, a_claim, a_run, a_spec, messages_in


@pytest.fixture
def stranger(database: Database, engine: Engine) -> Iterator[None]:
    """Another tenant, with work in `default` and in a queue of its own."""
    with database.transaction() as session:
        other = Tenant(name="other")
        session.add(other)
        session.flush()
        session.add(Project(tenant_id=other.id, name="default"))
        session.flush()
        for name, queue in (("theirs", "default"), ("secret", "their-queue")):
            workflows.register(session, other.id, a_spec(name, queue=queue))
            for _ in range(3):
                runs.submit(session, other.id, runs.NewRun(workflow=name), window=0)
    yield
    with engine.begin() as connection:
        for table in ("steps", "runs", "versions", "workflows", "queue_uses"):
            connection.execute(text(f"DELETE FROM {table}"))
        others = "(SELECT id FROM tenants WHERE name = 'other')"
        connection.execute(text(f"DELETE FROM projects WHERE tenant_id IN {others}"))
        connection.execute(text("DELETE FROM tenants WHERE name = 'other'"))


def _get(client: FlaskClient, address: str) -> Any:
    reply = client.get(f"/api/v1{address}")
    assert reply.status_code == 200, reply.text
    return reply.json


def test_a_worker_is_shown_as_it_said_itself(client: FlaskClient, database: Database) -> None:
    say(database, a_report(active=1))

    shown = _get(client, "/workers/w1@here")

    assert shown.pop("seen_at").endswith("Z")
    assert shown == {
        "name": "w1@here", "status": "active", "host": "here", "pid": 7, "pool": "prefork",
        "queues": ["default"], "capacity": 2, "active": 1, "usage": HOST,
        "versions": {"python": "3.11"},
        "started_at": f"{STARTED:%Y-%m-%dT%H:%M:%S}.000000Z",
    }  # fmt: skip
    assert [each["name"] for each in _get(client, "/workers")["items"]] == ["w1@here"]


def test_of_a_workers_queues_a_tenant_sees_its_own(
    client: FlaskClient, database: Database, stranger: None
) -> None:
    a_run(database, a_spec("mine", queue="mine"))
    say(database, a_report(queues=["default", "mine", "their-queue", "nobodys"]))

    assert _get(client, "/workers/w1@here")["queues"] == ["default", "mine"]


def test_workers_come_in_pages(client: FlaskClient, database: Database) -> None:
    say(database, *[a_report(f"w{number}@here") for number in range(5)])

    names, cursor = [], ""
    while cursor is not None:
        page = _get(client, f"/workers?limit=2{cursor and f'&cursor={cursor}'}")
        names += [each["name"] for each in page["items"]]
        cursor = page["next_cursor"]

    assert names == [f"w{number}@here" for number in range(5)]


def test_a_queue_tells_what_is_in_it(
    client: FlaskClient, database: Database, sent: list[Outbound], stranger: None
) -> None:
    wide = [{"key": f"w{number}", "uses": "noop", "needs": []} for number in range(20)]
    a_run(database, {"name": "wide", "steps": wide, "queue": "io"})
    for message in messages_in(sent)[:3]:
        assert a_claim(database, message.task_id)
    for priority in (2, 8, 8):
        a_run(database, a_spec("later", queue="io"), window=0, priority=priority)
    say(database, a_report(queues=["io"]), a_report("w2@here", queues=["io"], draining=True))

    before, _ = _get(client, "/queues/io"), sweeps.fold_counters(database)
    shown = _get(client, "/queues/io")

    age = shown.pop("oldest_waiting_seconds")
    assert shown == {
        "name": "io", "waiting": 3, "by_priority": {"2": 1, "8": 2}, "in_window": 13,
        "runnable": 4, "running": 3, "workers": 1,
    }  # fmt: skip
    assert 0 < before.pop("oldest_waiting_seconds") < age < 60
    assert before == shown


def test_queues_are_those_that_the_tenants_workflows_use(
    client: FlaskClient, database: Database, stranger: None
) -> None:
    for queue in ("b", "a"):
        a_run(database, a_spec(queue, queue=queue), window=0)

    first = _get(client, "/queues?limit=2")
    rest = _get(client, f"/queues?limit=2&cursor={first['next_cursor']}")

    assert [each["name"] for each in first["items"] + rest["items"]] == ["a", "b", "default"]
    assert [each["waiting"] for each in first["items"] + rest["items"]] == [1, 1, 0]
    assert rest["next_cursor"] is None
    assert client.get("/api/v1/queues/their-queue").status_code == 404


def test_an_empty_system_is_healthy(client: FlaskClient) -> None:
    shown = _get(client, "/system/status")

    assert shown.pop("timestamp").endswith("Z")
    assert shown == {
        "status": "healthy", "reasons": [], "nodes": [],
        "queues": {"waiting": 0, "by_priority": {}, "average_wait_seconds": None,
                   "estimated_drain_seconds": 0},
        "runs": {"ended_today": 0, "succeeded_today": 0, "failed_today": 0,
                 "mean_duration_seconds": None, "success_rate": None, "throughput_per_hour": 0},
        "resources": {"cpus": 0, "cpu_used": 0, "memory_total": 0, "memory_used": 0,
                      "disk_total": 0, "disk_free": 0},
    }  # fmt: skip


def test_work_that_nobody_takes_makes_the_system_unwell(
    client: FlaskClient, database: Database, stranger: None
) -> None:
    a_run(database)
    sweeps.admit_waiting(database, 100)  # its step is in the window
    a_run(database, a_spec("slow", queue="io"), window=0)  # the run waits

    unhealthy = _get(client, "/system/status")
    say(database, a_report())
    degraded = _get(client, "/system/status")
    say(database, a_report(queues=["default", "io"]))
    healthy = _get(client, "/system/status")

    assert (unhealthy["status"], unhealthy["queues"]["waiting"]) == ("unhealthy", 1)
    assert unhealthy["reasons"] == [
        "no active worker listens to queue 'default'",
        "no active worker listens to queue 'io'",
    ]
    assert degraded["status"] == "degraded"
    assert degraded["reasons"] == ["no active worker listens to queue 'io'"]
    assert (healthy["status"], healthy["reasons"]) == ("healthy", [])
    assert [node["name"] for node in healthy["nodes"]] == ["w1@here"]
    assert healthy["resources"]["cpus"] == 4


def test_a_broker_that_is_away_makes_the_system_unhealthy(
    settings: Settings, database: Database
) -> None:
    app = create_app(replace(settings, redis_url="redis://127.0.0.1:1/0"))
    headers = {"Authorization": f"Bearer {KEY}"}

    shown = app.test_client().get("/api/v1/system/status", headers=headers).json

    assert shown["status"] == "unhealthy"
    assert shown["reasons"] == ["the broker does not answer: what is accepted waits"]
    app.extensions["orchestrator"].database.engine.dispose()


@pytest.mark.parametrize(
    ("address", "status"),
    [
        ("/workers/nobody@nowhere", 404),
        ("/workers/%00", 400),
        ("/queues/%F0%9F%A6%86", 404),
        ("/queues/%00", 400),
        ("/workers?limit=0", 422),
        ("/queues?cursor=rubbish", 422),
        ("/queues?name=io", 422),
        ("/system/status?verbose=1", 422),
    ],
)
def test_what_is_asked_wrongly_is_refused(client: FlaskClient, address: str, status: int) -> None:
    answer = client.get(f"/api/v1{address}")

    assert answer.status_code == status
    assert answer.content_type == "application/problem+json"
