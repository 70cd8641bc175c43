"""Status reports of real workers, and the status of queues and system derived from them."""

import platform
import socket
from datetime import timedelta
from pathlib import Path
from typing import Any

import requests
from sqlalchemy import Engine, text

from orchestrator.client import Client
from orchestrator.local.stack import Stack
from tests.support.factories import eventually
from tests.support.processes import a_worker, ended, kill, lines_in, submit, the_worker

BEAT = timedelta(seconds=1)

_LEASE_UNTIL = "SELECT lease_until FROM attempts WHERE run_id = :id"
_WAITING = """
    SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()
      AND application_name = 'orchestrator-worker' AND wait_event_type = 'Lock'
"""


def _scalar(engine: Engine, sql: str, run: dict[str, Any]) -> Any:
    with engine.connect() as connection:
        return connection.scalar(text(sql), {"id": run["id"]})


def _get(stack: Stack, address: str) -> dict[str, Any]:
    headers = {"Authorization": f"Bearer {stack.key}"}
    response = requests.get(f"{stack.url}/api/v1{address}", headers=headers, timeout=10)
    body: dict[str, Any] = response.json()
    return body


def test_every_worker_of_the_stack_is_shown(stack: Stack) -> None:
    workers = [
        eventually(lambda name=name: the_worker(stack, name)) for name in ("worker-1", "worker-2")
    ]

    for worker in workers:
        assert worker is not None
        assert (worker["status"], worker["pool"], worker["capacity"]) == ("active", "prefork", 2)
        assert worker["queues"] == ["default"]
        assert worker["host"] == socket.gethostname()
        assert worker["pid"] in stack.pids("worker")
        assert worker["versions"]["python"] == platform.python_version()
        assert worker["usage"]["memory_total"] > worker["usage"]["memory_used"] > 0
        assert worker["usage"]["disk_total"] > worker["usage"]["disk_free"] > 0
        assert worker["usage"]["cpus"] > 0


def test_a_run_is_seen_in_the_figures(stack: Stack, client: Client, engine: Engine) -> None:
    before = _get(stack, "/system/status")["runs"]["throughput_per_hour"]

    run = submit(client, {"name": "counted", "steps": [{"key": "s", "uses": "noop"}]})

    assert ended(client, run["id"])["state"] == "succeeded"
    after = _get(stack, "/system/status")
    assert after["runs"]["throughput_per_hour"] > before
    assert after["runs"]["succeeded_today"] >= 1
    assert after["resources"]["cpus"] > 0
    with engine.connect() as connection:
        pending = text("SELECT count(*) FROM backlog_changes")
        eventually(lambda: connection.scalar(pending), until=lambda changes: changes == 0)


def test_work_waits_for_a_worker_and_is_taken_by_it(stack: Stack, client: Client) -> None:
    client.apply({"name": "alone", "queue": "alone", "steps": [{"key": "s", "uses": "noop"}]})
    run = client.submit("alone", {})

    unserved = _get(stack, "/queues/alone")
    status = _get(stack, "/system/status")
    with a_worker(stack, "alone", "--pool", "threads", "--concurrency", "3"):
        assert ended(client, run["id"], within=60)["state"] == "succeeded"
        worker = eventually(lambda: the_worker(stack, "alone"))
        served = _get(stack, "/queues/alone")

    assert (unserved["in_window"], unserved["workers"]) == (1, 0)
    assert "no active worker listens to queue 'alone'" in status["reasons"]
    assert worker is not None
    assert (worker["pool"], worker["capacity"], worker["queues"]) == ("threads", 3, ["alone"])
    assert (served["in_window"], served["running"], served["workers"]) == (0, 0, 1)


def test_a_worker_that_ends_drains_and_is_then_removed(
    stack: Stack, client: Client, tmp_path: Path
) -> None:
    step = {"key": "s", "uses": "sleep", "with": {"seconds": 3}}
    client.apply({"name": "drained", "queue": "drained", "steps": [step]})
    with a_worker(stack, "drained") as process:
        run = client.submit("drained", {})
        eventually(lambda: client.run(run["id"])["state"] == "running", within=60)
        running = _get(stack, "/queues/drained")["running"]
        process.terminate()
        eventually(
            lambda: (the_worker(stack, "drained") or {}).get("status") == "draining", within=3
        )
        eventually(lambda: the_worker(stack, "drained") is None, within=15)

    assert running == 1
    assert ended(client, run["id"])["state"] == "succeeded"
    assert _get(stack, "/queues/drained")["running"] == 0


def test_a_loss_that_waits_for_a_lock_stops_no_heartbeat(
    stack: Stack, client: Client, engine: Engine, tmp_path: Path
) -> None:
    spec = {"queue": "hearty", "steps": [{"key": "s", "uses": "tests.support.handlers.hang_until"}]}
    params = {"say": str(tmp_path / "said"), "go": str(tmp_path / "go")}
    with a_worker(stack, "hearty", "--concurrency", "2"):
        lost = submit(client, {"name": "lost", **spec}, params=params)
        (pid,) = lines_in(tmp_path / "said", within=60)
        healthy = submit(client, {"name": "kept", **spec}, params=params)
        lines_in(tmp_path / "said", lines=2, within=60)
        with engine.connect() as locking:
            locking.execute(text("SELECT FROM runs WHERE id = :id FOR UPDATE"), {"id": lost["id"]})
            kill(int(pid))
            eventually(lambda: _scalar(engine, _WAITING, lost))
            since = _scalar(engine, _LEASE_UNTIL, healthy)
            eventually(lambda: _scalar(engine, _LEASE_UNTIL, healthy) > since + 2 * BEAT)
        (tmp_path / "go").touch()

        assert ended(client, healthy["id"])["steps"][0]["attempt"] == 1
        assert ended(client, lost["id"])["state"] == "succeeded"
