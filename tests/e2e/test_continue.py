"""A worker goes on with a run in place, and each step stays what it is without that."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from sqlalchemy import Engine, text

from orchestrator.client import Client
from orchestrator.local.stack import Stack
from tests.support.factories import eventually
from tests.support.processes import GRACE, a_worker, ended, kill, lines_in, submit, the_worker

_TASKS = """
    SELECT steps.task_id, attempts.task_id AS carrier, attempts.worker FROM steps
    JOIN attempts ON step_id = steps.id AND attempts.number = steps.attempt
    WHERE steps.run_id = :id ORDER BY position
"""

HANG = "tests.support.handlers.hang"


def _spec(queue: str, *handlers: str, **last: Any) -> dict[str, Any]:
    """A chain of these handlers in a queue; `last` has more of its last step."""
    steps = [{"key": f"s{n}", "uses": uses} for n, uses in enumerate(handlers, start=1)]
    steps[-1].update(last)
    return {"name": queue, "queue": queue, "steps": steps}


@pytest.fixture
def tasks(engine: Engine) -> Any:
    """The tasks of a run's steps, in order: its own, and the one that carried it."""

    def read(run: dict[str, Any]) -> list[Any]:
        with engine.connect() as connection:
            return list(connection.execute(text(_TASKS), {"id": run["id"]}))

    return read


@pytest.fixture(params=["prefork", "threads"])
def pool(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def queue(stack: Stack, pool: str, request: pytest.FixtureRequest) -> Iterator[str]:
    """A queue with one worker that goes on for as long as the test takes."""
    name = request.function.__name__.removeprefix("test_")[:24] + pool
    words = ("--pool", pool, "--concurrency", "1")
    with a_worker(stack, name, *words, once=False, **{"continue": "60s"}, drain_grace="500ms"):
        eventually(lambda: the_worker(stack, name), within=30)
        yield name


def test_each_step_is_a_task_of_its_own_in_flower(
    stack: Stack, client: Client, queue: str, tasks: Any
) -> None:
    run = submit(client, _spec(queue, *["noop"] * 11, "fail"))
    ended(client, run["id"])

    rows = tasks(run)
    assert {row.carrier for row in rows} == {rows[0].task_id}
    assert len({row.task_id for row in rows}) == 12
    address = f"{stack.flower_url}/api/tasks?limit=1000"

    def states() -> list[str | None]:
        shown = requests.get(address, auth=("admin", stack.key), timeout=5).json()
        return [shown.get(row.task_id, {}).get("state") for row in rows]

    eventually(states, until=lambda each: each == ["SUCCESS"] * 11 + ["FAILURE"])
    shown = requests.get(address, auth=("admin", stack.key), timeout=5).json()
    assert shown[rows[6].task_id]["name"].endswith("#1")
    assert {shown[row.task_id]["worker"] for row in rows} == {rows[0].worker}


def test_a_cancel_stops_the_step_that_it_executes(
    client: Client, queue: str, tasks: Any, say: Path, pool: str
) -> None:
    handler = "tests.support.handlers.wait_politely" if pool == "threads" else HANG
    run = submit(client, _spec(queue, "noop", "noop", handler), params={"say": str(say)})
    lines_in(say)

    client.cancel(run["id"])

    assert ended(client, run["id"], within=GRACE.total_seconds() + 5)["state"] == "cancelled"
    assert len({row.carrier for row in tasks(run)}) == 1


def test_a_timeout_is_that_of_the_step(client: Client, queue: str, say: Path, pool: str) -> None:
    handler = "tests.support.handlers.wait_politely" if pool == "threads" else HANG
    spec = _spec(queue, "noop", "noop", handler, timeout=1)

    run = ended(client, submit(client, spec, params={"say": str(say)})["id"])

    assert (run["state"], run["steps"][2]["error"]["kind"]) == ("failed", "Timeout")


@pytest.mark.parametrize("pool", ["prefork"], indirect=True)
def test_one_whose_child_is_killed_runs_again(
    client: Client, queue: str, tasks: Any, say: Path, pool: str
) -> None:
    spec = _spec(queue, "noop", "noop", "tests.support.handlers.hang_once", "noop")
    run = submit(client, spec, params={"say": str(say)})

    kill(int(lines_in(say)[0].split()[1]))

    steps = ended(client, run["id"])["steps"]
    assert [step["state"] for step in steps] == ["succeeded"] * 4
    assert [step["attempt"] for step in steps] == [1, 1, 2, 1]


def test_a_worker_that_ends_hands_it_back(
    stack: Stack, client: Client, tasks: Any, say: Path, pool: str, engine: Engine
) -> None:
    queue = f"hands-back-in-place-{pool}"
    handler = "tests.support.handlers.wait_politely"
    words = ("--pool", pool, "--concurrency", "1")
    with a_worker(stack, queue, *words, **{"continue": "60s"}, drain_grace="500ms") as leaving:
        run = submit(client, _spec(queue, "noop", handler, "noop"), params={"say": str(say)})
        lines_in(say, within=30)
        os.kill(leaving.pid, signal.SIGTERM)
        leaving.wait(20)

    step = client.run(run["id"])["steps"][1]
    assert (step["state"], step["attempt"]) == ("queued", 1)
    client.cancel(run["id"])
    assert ended(client, run["id"])["state"] == "cancelled"


def test_with_zero_each_step_comes_through_the_broker(
    stack: Stack, client: Client, tasks: Any
) -> None:
    with a_worker(stack, "through-the-broker", **{"continue": "0"}):
        run = submit(client, _spec("through-the-broker", *["noop"] * 6))
        ended(client, run["id"], within=30)

    assert all(row.carrier == row.task_id for row in tasks(run))
