"""A worker that ends or drains takes nothing new, and hands back what does not end in time."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from sqlalchemy import Engine, text

from orchestrator.client import Client
from orchestrator.local.stack import Stack
from tests.support.factories import eventually
from tests.support.processes import a_worker, ended, kill, lines_in, submit, the_worker

_ATTEMPTS = """
    SELECT steps.key, steps.attempt, losses, forgiven, first.outcome, first.error ->> 'kind'
    FROM steps JOIN attempts first ON first.step_id = steps.id AND first.number = 1
    WHERE steps.run_id = :id ORDER BY key
"""


def _spec(queue: str, *ways: str) -> dict[str, Any]:
    """Parallel steps, each of which reacts to the order to stop in another way."""
    common = {"uses": "tests.support.handlers.let_go", "needs": [], "retry": {"attempts": 1}}
    steps = [{"key": how, "with": {"how": how}, **common} for how in ways]
    return {"name": queue, "queue": queue, "steps": steps}


def _attempts(engine: Engine, run: dict[str, Any]) -> dict[str, tuple[Any, ...]]:
    with engine.connect() as connection:
        rows = connection.execute(text(_ATTEMPTS), {"id": run["id"]})
        return {row[0]: tuple(row[1:]) for row in rows}


def _drain(stack: Stack, *words: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "orchestrator", "drain", *words],
        env={**os.environ, **stack.environ},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    return done.stdout + done.stderr


HANDED_BACK = (1, 0, 1, "lost", "HandedBack")
ENDED = (1, 0, 0, "succeeded", None)


@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_steps_that_outlive_the_grace_are_handed_back_at_no_cost(
    stack: Stack, client: Client, say: Path, engine: Engine, pool: str
) -> None:
    # A subprocess of a step gets the signal, too; in a thread its failure cannot be attributed.
    hit = ("command",) if pool == "prefork" else ()
    queue, ways = f"leaving-{pool}", ("finish", "polite", "break", "stubborn", *hit)
    words, params = ("--pool", pool, "--concurrency", "7"), {"say": str(say), "go": f"{say}.go"}
    spec = _spec(queue, *ways)
    spec["steps"].append(
        {"key": "in-time", "uses": "tests.support.handlers.hang_until", "needs": []}
    )
    with a_worker(stack, queue, *words, drain_grace="500ms") as leaving:
        run = submit(client, spec, params=params)
        unwanted = submit(client, {**_spec(queue, "stubborn"), "name": f"un-{pool}"}, params=params)
        lines_in(say, lines=len(ways) + 2, within=60)
        family = psutil.Process(leaving.pid).children(recursive=True)
        client.cancel(unwanted["id"])
        if pool == "threads":  # the worker ends although its loop is blocked
            hang = {"key": "s", "uses": "tests.support.handlers.stop_the_world"}
            spec = {"name": "hang-at-end", "queue": queue, "steps": [hang]}
            ended(client, submit(client, spec)["id"])
        os.killpg(leaving.pid, signal.SIGTERM)  # as systemd does, and some shells
        os.killpg(leaving.pid, signal.SIGTERM)  # a second one changes nothing
        Path(params["go"]).touch()

        assert leaving.wait(30) == 0
        assert not any(each.is_running() for each in family)
        expected = {**dict.fromkeys(ways, HANDED_BACK), "finish": ENDED, "in-time": ENDED}
        assert _attempts(engine, run) == expected
        assert ended(client, unwanted["id"])["state"] == "cancelled"
        eventually(lambda: the_worker(stack, queue) is None, within=20)
    with a_worker(stack, f"next-{pool}", "--queues", queue):
        assert ended(client, run["id"], within=60)["state"] == "succeeded"
    assert {step["key"]: step["attempt"] for step in client.run(run["id"])["steps"]} == {
        **dict.fromkeys(ways, 2),
        "finish": 1,
        "in-time": 1,
    }


def test_ctrl_c_twice_does_not_wait_for_the_grace(
    stack: Stack, client: Client, say: Path, engine: Engine
) -> None:
    with a_worker(stack, "hurried") as worker:
        run = submit(client, _spec("hurried", "polite", "stubborn"), params={"say": str(say)})
        lines_in(say, lines=2, within=60)
        os.killpg(worker.pid, signal.SIGINT)
        eventually(lambda: (the_worker(stack, "hurried") or {}).get("status") == "draining")
        assert worker.poll() is None
        os.killpg(worker.pid, signal.SIGINT)

        worker.wait(12)
        assert set(_attempts(engine, run).values()) == {HANDED_BACK}
        client.cancel(run["id"])


def test_a_process_that_an_operator_kills_is_a_lost_attempt(
    client: Client, say: Path, engine: Engine
) -> None:
    spec = {**_spec("default", "stubborn"), "name": "ended-by-hand"}
    run = submit(client, spec, params={"say": str(say)})
    (line,) = lines_in(say)
    kill(int(line.split()[-1]))

    assert ended(client, run["id"])["state"] == "succeeded"
    assert _attempts(engine, run) == {"stubborn": (2, 1, 0, "lost", "Interrupted")}


def test_an_operator_drains_a_worker_and_lets_it_work_again(
    stack: Stack, client: Client, say: Path, engine: Engine
) -> None:
    with a_worker(stack, "maintained") as worker:
        run = submit(client, _spec("maintained", "polite"), params={"say": str(say)})
        lines_in(say, within=60)

        assert "did you mean maintained" in _drain(stack, "maintaned")
        began = _drain(stack, "maintained", "--within", "1m", "--no-wait")
        shown_at_once = the_worker(stack, "maintained")
        requested = time.monotonic()
        done = _drain(stack, "maintained", "--within", "1s")
        took = time.monotonic() - requested
        waiting = client.submit("maintained", {"say": str(say)})

        assert began.endswith("drains, for 1m at most\n")
        assert shown_at_once["status"] == "draining"
        assert "maintained/polite#1" in done
        assert done.endswith("runs nothing and takes nothing: it is safe to kill\n")
        assert took < 45  # the first one allows 1m
        assert _attempts(engine, run) == {"polite": (1, 0, 1, "lost", "HandedBack")}
        assert the_worker(stack, "maintained")["status"] == "drained"
        assert worker.poll() is None
        assert client.run(run["id"])["steps"][0]["state"] == "queued"
        assert len(lines_in(say)) == 1

        assert "takes steps again" in _drain(stack, "maintained", "--undo")
        assert ended(client, run["id"])["state"] == "succeeded"
        client.cancel(waiting["id"])
        ended(client, waiting["id"])
