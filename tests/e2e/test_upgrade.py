"""Upgrade from the previous release to this code, process by process, while runs are live."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from sqlalchemy import create_engine

from config.settings import Settings, environ_of
from orchestrator.client import Client
from orchestrator.local import processes, stack
from orchestrator.local import services as local_services
from tests.chaos.invariants import broken
from tests.conftest import Services, _own_database
from tests.support import previous_release
from tests.support.factories import KEY, a_spec, eventually
from tests.support.previous_release import Processes
from tests.support.processes import ended, lines_in, submit
from tests.support.schema_sql import dump


@dataclass
class Both:
    """Two releases over the same services."""

    old: Processes
    new: Processes
    client: Client  # of whichever API listens
    port: int
    database_url: str

    def serve(self, code: Processes) -> None:
        """Start the API of this code, and wait until it is ready."""
        code.start("api", "api", "--port", str(self.port))
        eventually(self.client.ready, within=60)


@pytest.fixture
def both(services: Services, tmp_path: Path) -> Iterator[Both]:
    """The previous release and this code; nothing is started."""
    server = {"ORCHESTRATOR_DATABASE_URL": services.database_url}
    with (
        TemporaryDirectory(prefix="orchestrator-release-") as folder,
        _own_database(server) as database_url,
        local_services.redis(tmp_path / "redis") as redis_url,
    ):
        settings = Settings(
            database_url=database_url,
            redis_url=redis_url,
            data_dir=tmp_path / "data",
            admin_key=KEY,
            secret_key="the secret key of both releases, long enough",
            steps=("tests.support.handlers",),
            cancel_grace=timedelta(seconds=2),
        )
        environ, port = environ_of(settings), processes.free_port()
        old = Processes(previous_release.unpack(Path(folder)), environ, tmp_path)
        new = Processes(previous_release.ROOT, environ, tmp_path)
        client = Client(f"http://127.0.0.1:{port}", KEY)
        try:
            yield Both(old, new, client, port, database_url)
        finally:
            new.end()
            old.end()


def test_the_upgraded_schema_is_that_of_a_new_database(both: Both, services: Services) -> None:
    both.old.run("migrate")
    both.new.run("migrate")
    upgraded = _declarations(both.database_url)
    # Not that of `services`, in which the examples create tables of their own.
    with _own_database({"ORCHESTRATOR_DATABASE_URL": services.database_url}) as database_url:
        stack.prepare_database(database_url, KEY)

        assert upgraded == _declarations(database_url)


def _declarations(database_url: str) -> list[str]:
    """The lines of the schema without their order: a migration appends its columns.

    Sequences are named after tenants, which have other ids in each database.
    """
    lines = re.sub("_of_[0-9a-f]{32}", "_of_tenant", dump(database_url)).splitlines()
    return sorted(line.rstrip(",") for line in lines if not line.startswith("\\"))


@pytest.mark.timeout(300)
def test_live_runs_of_the_previous_release_end_on_this_code(both: Both, tmp_path: Path) -> None:
    old, new, client = both.old, both.new, both.client
    assert all(each.startswith(str(old.code)) for each in old.where())
    old.run("migrate")
    old.start("scheduler", "scheduler")
    old.start("worker", "worker", "--once", "--concurrency", "4")
    both.serve(old)
    _is_usable(client, "old")
    live = _live_runs(client, tmp_path)

    new.run("migrate")
    _is_usable(client, "old-on-new")
    old.end("api", "scheduler")
    new.start("scheduler", "scheduler")
    both.serve(new)
    _is_usable(client, "new-over-old-worker")
    new.start("worker", "worker", "--once", "--queues", "default,later", "--name", "new")
    (tmp_path / "go").touch()
    client.cancel(live["cancelling"], force=True)
    old.end("worker")

    runs = {name: ended(client, run_id, within=60) for name, run_id in live.items()}
    _is_usable(client, "all-new")
    attempts = {name: [step["attempt"] for step in run["steps"]] for name, run in runs.items()}
    assert {name: run["state"] for name, run in runs.items()} == {
        **dict.fromkeys(live, "succeeded"),
        "cancelling": "cancelled",
    }
    assert attempts == {
        "running": [1, 1],
        "waiting": [3],
        "queued": [1, 1],
        "start-later": [1],
        "cancelling": [1],
    }
    numbers = [run["number"] for run in client.runs()["items"]]  # the newest first
    assert numbers == sorted({*numbers}, reverse=True)
    engine = create_engine(both.database_url)
    assert broken(engine) == {}
    engine.dispose()


def _live_runs(client: Client, folder: Path) -> dict[str, str]:
    """A run in each state that lasts, by name."""
    talk = [{"key": "s", "uses": "tests.support.handlers.talk"}, {"key": "t", "uses": "noop"}]
    retry = {"attempts": 3, "delay": "4s"}
    flaky = [{"key": "s", "uses": "tests.support.handlers.flaky", "retry": retry}]
    stubborn = [{"key": "s", "uses": "tests.support.handlers.stubborn"}]
    later = (datetime.now(UTC) + timedelta(seconds=8)).isoformat()
    submissions: dict[str, dict[str, Any]] = {
        "running": {"spec": _spec("running", talk), "params": {"go": str(folder / "go")}},
        "waiting": {"spec": _spec("waiting", flaky)},
        "queued": {"spec": a_spec("queued", steps=2, queue="later")},
        "start-later": {"spec": a_spec("start-later"), "run_at": later},
        "cancelling": {
            "spec": _spec("cancelling", stubborn),
            "params": {"say": str(folder / "said")},
        },
    }
    live = {name: str(submit(client, **options)["id"]) for name, options in submissions.items()}
    lines_in(folder / "said")
    client.cancel(live["cancelling"], grace="120s")
    eventually(lambda: _first(client, live["running"]) == "running")
    eventually(lambda: _first(client, live["waiting"]) == "waiting")
    return live


def _spec(name: str, steps: list[dict[str, Any]]) -> dict[str, Any]:
    return {"name": name, "steps": steps}


def _first(client: Client, run_id: str) -> str:
    """The state of a run's first step."""
    return str(client.run(run_id)["steps"][0]["state"])


def _is_usable(client: Client, name: str) -> None:
    """Submit, run, list and cancel."""
    run = ended(client, submit(client, a_spec(name, steps=3))["id"], within=60)
    held = submit(client, a_spec(f"{name}-held"), start=False)
    cancelled = client.cancel(held["id"])

    assert (run["state"], cancelled["state"]) == ("succeeded", "cancelled")
    assert [each["id"] for each in client.runs(workflow=[name])["items"]] == [run["id"]]
