"""Postgres may be cut off, stopped at once and started again: nothing is lost, nobody restarts."""

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
from tests.support.factories import a_spec, eventually
from tests.support.processes import a_worker, ended, running, said, submit

BACK = 5.0  # seconds after which everything must work again

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
_SAID_BEFORE = """
    SELECT count(*) FROM logs JOIN attempts USING (run_id) WHERE run_id = CAST(:run_id AS uuid)
      AND time_ns < extract(epoch FROM attempts.started_at) * 1000000000
"""
_TALK = [
    "begun and ended", "logged by the context", "logged by the module", "printed",
    "printed by a thread",
]  # fmt: skip


@dataclass
class Asker:
    """Asks the API all the time, and remembers what it answered."""

    stack: Stack
    answers: list[tuple[float, int, float]] = field(default_factory=list)  # when, status, seconds
    _over: threading.Event = field(default_factory=threading.Event)

    @contextmanager
    def asking(self, method: str, path: str, **body: Any) -> Iterator[None]:
        """One request after the other while the block runs."""
        thread = threading.Thread(target=self._ask, args=(method, path, body))
        thread.start()
        try:
            yield
        finally:
            self._over.set()
            thread.join()

    def statuses(self) -> set[int]:
        """Every status that was answered."""
        return {status for _, status, _ in self.answers}

    def _ask(self, method: str, path: str, body: dict[str, Any]) -> None:
        url, headers = f"{self.stack.url}{path}", {"Authorization": f"Bearer {self.stack.key}"}
        number = 0
        while not self._over.is_set():
            number += 1
            keyed = headers | {"Idempotency-Key": f"{id(self)}-{number}"}
            asked = time.monotonic()
            answer = requests.request(method, url, json=body, headers=keyed, timeout=30)
            self.answers.append((asked, answer.status_code, time.monotonic() - asked))


@pytest.fixture(scope="module")
def postgres() -> Iterator[FragilePostgres]:
    """The Postgres of the stack."""
    # Not pytest's folder: the user that Postgres runs as may not enter that one.
    with TemporaryDirectory(prefix="orchestrator-test-", ignore_cleanup_errors=True) as folder:
        server = FragilePostgres(Path(folder) / "pg")
        yield server
        server.stop()


@pytest.fixture(scope="module")
def cutting(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """While this file is there, workers lose answers to their commits; it has a byte for each."""
    return tmp_path_factory.mktemp("cuts") / "cutting"


@pytest.fixture(scope="module")
def stack(
    postgres: FragilePostgres, cutting: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stack]:
    """API, scheduler and a worker on a Postgres and a Redis of their own."""
    steps = {"steps": ("tests.support.handlers", "tests.support.commit_cutter")}
    directory = tmp_path_factory.mktemp("outage")
    with pytest.MonkeyPatch.context() as patch, services.redis(directory / "redis") as redis_url:
        patch.setenv("CUT_COMMITS_WHILE", str(cutting))
        with running(directory, postgres.url, redis_url, workers=1, settings=steps) as stack:
            yield stack


@pytest.fixture
def own(postgres: FragilePostgres) -> Iterator[Engine]:
    """Looks into the Postgres of the stack; whatever the test did, the invariants hold after it."""
    engine = create_engine(postgres.url, pool_pre_ping=True)
    yield engine
    assert broken(engine) == {}
    engine.dispose()


@pytest.fixture
def client(stack: Stack) -> Client:
    """Speaks to the stack's API."""
    return Client(stack.url, stack.key)


def _steps(engine: Engine, workflow: str) -> tuple[int, int, int]:
    """How many of its steps have succeeded, the most attempts and the most losses of one."""
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
    submitting, listing = Asker(stack), Asker(stack)

    with (
        submitting.asking("POST", "/api/v1/runs", workflow="cut-off"),
        listing.asking("GET", "/api/v1/runs"),
    ):
        for _ in range(6):
            time.sleep(0.4)  # between two cuts
            with own.connect() as connection:
                assert connection.scalar(text(_CUT))
        eventually(lambda: len(submitting.answers), within=60, until=lambda many: many > 12)

    assert submitting.statuses() == {201}
    assert listing.statuses() == {200}
    steps = 5 * len(submitting.answers)
    eventually(lambda: _steps(own, "cut-off"), within=30, until=lambda told: told[0] == steps)
    assert _steps(own, "cut-off") == (steps, 1, 0)
    assert _processes(stack) == before


def test_answers_to_commits_that_are_lost_cost_no_attempt(
    client: Client, own: Engine, cutting: Path
) -> None:
    client.apply(a_spec("unheard", steps=3))
    cutting.touch()
    try:
        for _ in range(10):
            client.submit("unheard", {})
        eventually(lambda: _steps(own, "unheard"), within=30, until=lambda told: told[0] == 30)
        lost = cutting.stat().st_size
    finally:
        cutting.unlink()

    assert lost > 10  # of the two commits that each step takes
    assert _steps(own, "unheard") == (30, 1, 0)


def test_postgres_stopped_at_once_delays_and_loses_nothing(
    stack: Stack, client: Client, own: Engine, postgres: FragilePostgres, tmp_path: Path
) -> None:
    go = tmp_path / "go"
    spec = {"name": "between", "steps": [{"key": "s", "uses": "tests.support.handlers.talk"}]}
    run = submit(client, spec, params={"go": str(go)})
    eventually(lambda: _is_running(client, run))
    client.apply(a_spec("after"))  # a commit that waits for the disk, and takes the claim along
    forgotten = client.submit("between", {"go": str(go)})
    before = _processes(stack)
    asker = Asker(stack)
    eventually(lambda: _is_running(client, forgotten))  # only in memory so far, most likely

    with asker.asking("GET", "/api/v1/runs"), _stream(stack, run["id"]) as heard:
        with postgres.away():
            killed = time.monotonic()
            eventually(lambda: 503 in asker.statuses())
            alive = requests.get(f"{stack.url}/healthz", timeout=5)
            unready = requests.get(f"{stack.url}/readyz", timeout=5)
            go.touch()  # the step ends while nobody can write that down
            waiting = threading.Thread(target=client.submit, args=("after", {}))
            waiting.start()  # the client waits for Postgres, too
            time.sleep(max(0, killed + 2 - time.monotonic()))  # the outage
        back = time.monotonic()
        told = ended(client, run["id"], within=BACK)
        again = ended(client, forgotten["id"], within=10)
        waiting.join()
        eventually(lambda: _steps(own, "after")[0] == 1, within=back + BACK - time.monotonic())
        eventually(lambda: "run.succeeded" in "".join(heard), within=BACK)

    assert (alive.status_code, unready.status_code) == (200, 503)
    assert asker.statuses() == {200, 503}
    assert max(took for _, status, took in asker.answers if status == 503) < 2
    assert all(status == 200 for asked, status, _ in asker.answers if asked > back + BACK)
    assert told["state"] == "succeeded"
    assert [(step["attempt"], step["state"]) for step in told["steps"]] == [(1, "succeeded")]
    assert (again["state"], again["steps"][0]["attempt"]) == ("succeeded", 1)
    assert _processes(stack) == before
    assert _log(own, run) == _log(own, forgotten) == _TALK
    with own.connect() as connection:  # a forgotten claim's words pass for nobody else's
        assert connection.scalar(text(_SAID_BEFORE), {"run_id": forgotten["id"]}) == 0


def test_what_was_shown_of_a_log_is_there_after_a_crash(
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
    assert _log(own, run) == _TALK


def test_what_a_worker_hands_back_meanwhile_is_known_as_that_afterwards(
    stack: Stack, client: Client, own: Engine, postgres: FragilePostgres, tmp_path: Path
) -> None:
    step = {"key": "s", "uses": "tests.support.handlers.let_go", "with": {"how": "polite"}}
    spec = {"name": "leaving", "queue": "leaving", "steps": [step]}
    with a_worker(stack, "leaving", "--concurrency", "1", drain_grace="200ms") as worker:
        run = submit(client, spec, params={"say": str(tmp_path / "said")})
        said(tmp_path / "said", within=60)
        client.apply(a_spec("flushed"))  # and the claim with it
        children = psutil.Process(worker.pid).children()
        with postgres.away():
            worker.terminate()
            eventually(lambda: not any(each.is_running() for each in children))
            waiting = worker.poll() is None

        assert worker.wait(15) == 0
    assert waiting
    with own.connect() as connection:
        told = connection.execute(text(_HANDED_BACK), {"run_id": run["id"]}).one()
    assert tuple(told) == ("queued", 1, 0, 1, "HandedBack")
    client.cancel(run["id"])


def _log(engine: Engine, run: dict[str, Any]) -> list[str]:
    with engine.connect() as connection:
        return [row.text for row in connection.execute(text(_LOG), {"run_id": run["id"]})]


def _is_running(client: Client, run: dict[str, Any]) -> bool:
    return bool(client.run(run["id"])["steps"][0]["state"] == "running")


@contextmanager
def _stream(stack: Stack, run_id: str) -> Iterator[list[str]]:
    """The events of a run as they happen."""
    heard: list[str] = []
    headers = {"Authorization": f"Bearer {stack.key}", "Accept": "text/event-stream"}
    url = f"{stack.url}/api/v1/runs/{run_id}/events"
    with requests.get(url, headers=headers, stream=True, timeout=30) as answer:
        lines = answer.iter_lines(decode_unicode=True)
        thread = threading.Thread(target=lambda: heard.extend(lines))
        thread.start()
        yield heard
        thread.join(BACK)
