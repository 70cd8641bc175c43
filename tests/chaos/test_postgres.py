"""Postgres is disconnected, stopped immediately and restarted: nothing is lost or restarted."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psutil
import pytest
import requests
from sqlalchemy import Engine, create_engine, text

from orchestrator.client import Client
from orchestrator.local import services
from orchestrator.local.stack import Stack
from tests.chaos.fragile import FragilePostgres
from tests.chaos.invariants import broken
from tests.support.factories import PROMPT, a_spec, eventually
from tests.support.processes import a_worker, ended, lines_in, running, submit

_CUT = """
    SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
    WHERE datname = current_database() AND application_name LIKE 'orchestrator-%'
"""
_STEPS = """
    SELECT count(*) FILTER (WHERE steps.state = 'succeeded'), max(attempt), max(losses)
    FROM steps JOIN runs ON runs.id = run_id WHERE runs.workflow = :workflow
"""
_HANDED_BACK = """
    SELECT steps.state, steps.attempt, losses, forgiven, attempts.error ->> 'kind' FROM steps
    JOIN attempts ON step_id = steps.id WHERE steps.run_id = CAST(:run_id AS uuid)
"""
_LOG = "SELECT text FROM logs WHERE run_id = CAST(:run_id AS uuid) ORDER BY text"
_LOGGED_BEFORE = """
    SELECT count(*) FROM logs JOIN attempts USING (run_id) WHERE run_id = CAST(:run_id AS uuid)
      AND time_ns < extract(epoch FROM attempts.started_at) * 1000000000
"""
_TALK_LOG = [
    "begun and ended", "logged by the context", "logged by the module", "printed",
    "printed by a thread",
]  # fmt: skip


@dataclass
class Poller:
    """Sends requests to the API continuously, and records the responses."""

    stack: Stack
    responses: list[tuple[float, int, float]] = field(default_factory=list)  # when, status, seconds
    _over: threading.Event = field(default_factory=threading.Event)

    @contextmanager
    def polling(self, method: str, path: str, **body: Any) -> Iterator[None]:
        """Send one request after the other during the block."""
        thread = threading.Thread(target=self._poll, args=(method, path, body))
        thread.start()
        try:
            yield
        finally:
            self._over.set()
            thread.join()

    def statuses(self) -> set[int]:
        """The statuses of all responses."""
        return {status for _, status, _ in self.responses}

    def _poll(self, method: str, path: str, body: dict[str, Any]) -> None:
        url, headers = f"{self.stack.url}{path}", {"Authorization": f"Bearer {self.stack.key}"}
        number = 0
        while not self._over.is_set():
            number += 1
            keyed = headers | {"Idempotency-Key": f"{id(self)}-{number}"}
            sent_at = time.monotonic()
            response = requests.request(method, url, json=body, headers=keyed, timeout=30)
            self.responses.append((sent_at, response.status_code, time.monotonic() - sent_at))


@pytest.fixture(scope="module")
def postgres() -> Iterator[FragilePostgres]:
    """The Postgres of the stack."""
    # Not pytest's folder: the user that runs Postgres may not enter it.
    with TemporaryDirectory(prefix="orchestrator-test-", ignore_cleanup_errors=True) as folder:
        server = FragilePostgres(Path(folder) / "pg")
        yield server
        server.stop()


@pytest.fixture(scope="module")
def cut_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """While this file exists, workers lose responses to commits; it has a byte for each."""
    return tmp_path_factory.mktemp("cuts") / "cutting"


@pytest.fixture(scope="module")
def stack(
    postgres: FragilePostgres, cut_file: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stack]:
    """API, scheduler and a worker on a Postgres and a Redis of their own."""
    steps = {"steps": ("tests.support.handlers", "tests.support.commit_cutter")}
    directory = tmp_path_factory.mktemp("outage")
    with pytest.MonkeyPatch.context() as patch, services.redis(directory / "redis") as redis_url:
        patch.setenv("CUT_COMMITS_WHILE", str(cut_file))
        with running(directory, postgres.url, redis_url, workers=1, settings=steps) as stack:
            yield stack


@pytest.fixture
def own(postgres: FragilePostgres) -> Iterator[Engine]:
    """Connections to the Postgres of the stack; after the test, the invariants are checked."""
    engine = create_engine(postgres.url, pool_pre_ping=True)
    yield engine
    assert broken(engine) == {}
    engine.dispose()


@pytest.fixture
def client(stack: Stack) -> Client:
    """A client of the stack's API."""
    return Client(stack.url, stack.key)


def _steps(engine: Engine, workflow: str) -> tuple[int, int, int]:
    """The number of succeeded steps, and the maximum of attempts and losses of a step."""
    with engine.connect() as connection:
        return tuple(connection.execute(text(_STEPS), {"workflow": workflow}).one())  # type: ignore[return-value]


def _processes(stack: Stack) -> set[int]:
    supervisor = psutil.Process(stack._supervisor.pid)
    return {each.pid for each in supervisor.children(recursive=True)}


def test_cut_connections_fail_no_request_and_no_step(
    stack: Stack, client: Client, own: Engine
) -> None:
    client.apply(a_spec("cut-off", steps=5))
    before = _processes(stack)
    submitting, listing = Poller(stack), Poller(stack)

    with (
        submitting.polling("POST", "/api/v1/runs", workflow="cut-off"),
        listing.polling("GET", "/api/v1/runs"),
    ):
        for _ in range(6):
            time.sleep(0.4)  # between two cuts
            with own.connect() as connection:
                assert connection.scalar(text(_CUT))
        eventually(lambda: len(submitting.responses), within=60, until=lambda many: many > 12)

    assert submitting.statuses() == {201}
    assert listing.statuses() == {200}
    steps = 5 * len(submitting.responses)
    eventually(lambda: _steps(own, "cut-off"), within=30, until=lambda counts: counts[0] == steps)
    assert _steps(own, "cut-off") == (steps, 1, 0)
    assert _processes(stack) == before


def test_lost_responses_to_commits_cost_no_attempt(
    client: Client, own: Engine, cut_file: Path
) -> None:
    client.apply(a_spec("unheard", steps=3))
    cut_file.touch()
    try:
        for _ in range(10):
            client.submit("unheard", {})
        eventually(lambda: _steps(own, "unheard"), within=30, until=lambda counts: counts[0] == 30)
        lost = cut_file.stat().st_size
    finally:
        cut_file.unlink()

    assert lost > 10  # each step has two commits
    assert _steps(own, "unheard") == (30, 1, 0)


def test_an_immediate_stop_of_postgres_loses_nothing(
    stack: Stack, client: Client, own: Engine, postgres: FragilePostgres, tmp_path: Path
) -> None:
    go = tmp_path / "go"
    spec = {"name": "between", "steps": [{"key": "s", "uses": "tests.support.handlers.talk"}]}
    run = submit(client, spec, params={"go": str(go)})
    eventually(lambda: _is_running(client, run))
    client.apply(a_spec("after"))  # a synchronous commit, which flushes the claim, too
    forgotten = client.submit("between", {"go": str(go)})
    before = _processes(stack)
    poller = Poller(stack)
    eventually(lambda: _is_running(client, forgotten))  # probably not flushed yet

    with poller.polling("GET", "/api/v1/runs"), _stream(stack, run["id"]) as lines:
        with postgres.away():
            killed = time.monotonic()
            eventually(lambda: 503 in poller.statuses())
            alive = requests.get(f"{stack.url}/healthz", timeout=5)
            unready = requests.get(f"{stack.url}/readyz", timeout=5)
            go.touch()  # the step ends while Postgres is down
            waiting = threading.Thread(target=client.submit, args=("after", {}))
            waiting.start()  # the client retries until Postgres is back
            time.sleep(max(0, killed + 2 - time.monotonic()))  # the outage
        finished = ended(client, run["id"])
        again = ended(client, forgotten["id"])
        waiting.join()
        eventually(lambda: _steps(own, "after")[0] == 1)
        eventually(lambda: "run.succeeded" in "".join(lines))

    assert (alive.status_code, unready.status_code) == (200, 503)
    assert poller.statuses() - {429} == {200, 503}  # 429: three requests of one key wait for long
    assert max(took for _, status, took in poller.responses if status == 503) < PROMPT
    assert poller.responses[-1][1] == 200
    assert finished["state"] == "succeeded"
    assert [(step["attempt"], step["state"]) for step in finished["steps"]] == [(1, "succeeded")]
    assert (again["state"], again["steps"][0]["attempt"]) == ("succeeded", 1)
    assert _processes(stack) == before
    assert _log(own, run) == _log(own, forgotten) == _TALK_LOG
    with own.connect() as connection:  # output of a lost claim is not kept
        assert connection.scalar(text(_LOGGED_BEFORE), {"run_id": forgotten["id"]}) == 0


def test_log_lines_once_visible_survive_a_crash(
    client: Client, own: Engine, postgres: FragilePostgres, tmp_path: Path
) -> None:
    go = tmp_path / "go"
    spec = {"name": "shown", "steps": [{"key": "s", "uses": "tests.support.handlers.talk"}]}
    with postgres.forgetful():
        run = submit(client, spec, params={"go": str(go)})
        shown = eventually(lambda: _log(own, run), every=0.001)
        postgres.crash()

    assert _log(own, run) == shown
    go.touch()
    ended(client, run["id"])
    assert _log(own, run) == _TALK_LOG


def test_a_step_handed_back_during_an_outage_is_recorded_as_such(
    stack: Stack, client: Client, own: Engine, postgres: FragilePostgres, tmp_path: Path
) -> None:
    step = {"key": "s", "uses": "tests.support.handlers.let_go", "with": {"how": "polite"}}
    spec = {"name": "leaving", "queue": "leaving", "steps": [step]}
    with a_worker(stack, "leaving", "--concurrency", "1", drain_grace="200ms") as worker:
        run = submit(client, spec, params={"say": str(tmp_path / "said")})
        lines_in(tmp_path / "said", within=60)
        client.apply(a_spec("flushed"))  # flushes the claim, too
        children = psutil.Process(worker.pid).children()
        with postgres.away():
            worker.terminate()
            eventually(lambda: not any(each.is_running() for each in children))
            waiting = worker.poll() is None

        assert worker.wait(15) == 0
    assert waiting
    with own.connect() as connection:
        row = connection.execute(text(_HANDED_BACK), {"run_id": run["id"]}).one()
    assert tuple(row) == ("queued", 1, 0, 1, "HandedBack")
    client.cancel(run["id"])


def _log(engine: Engine, run: dict[str, Any]) -> list[str]:
    with engine.connect() as connection:
        return [row.text for row in connection.execute(text(_LOG), {"run_id": run["id"]})]


def _is_running(client: Client, run: dict[str, Any]) -> bool:
    return bool(client.run(run["id"])["steps"][0]["state"] == "running")


@contextmanager
def _stream(stack: Stack, run_id: str) -> Iterator[list[str]]:
    """The lines of a run's event stream, as they arrive."""
    received: list[str] = []
    headers = {"Authorization": f"Bearer {stack.key}", "Accept": "text/event-stream"}
    url = f"{stack.url}/api/v1/runs/{run_id}/events"
    with requests.get(url, headers=headers, stream=True, timeout=30) as response:
        lines = response.iter_lines(decode_unicode=True)
        thread = threading.Thread(target=lambda: received.extend(lines))
        thread.start()
        yield received
        thread.join(30)
