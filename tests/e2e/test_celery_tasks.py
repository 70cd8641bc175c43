"""The tasks of an existing Celery project as steps, on real workers of both pools."""

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from config.settings import Settings, environ_of
from orchestrator.client import Client
from orchestrator.local.stack import Stack
from tests.support.factories import eventually
from tests.support.processes import a_worker, ended, submit

_PROJECT = "tests.support.celery_project"
_LIMITED = """
from celery import Celery

app = Celery("limited", broker="memory://")


@app.task(name="limited.sms", rate_limit="10/m")
def sms():
    pass
"""


@pytest.fixture(scope="module", params=["prefork", "threads"])
def pool(stack: Stack, request: pytest.FixtureRequest) -> Iterator[str]:
    """A worker of this pool, with a queue of the same name, that has the project's tasks."""
    options = ("--pool", request.param, "--concurrency", "2")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CELERY_BROKER_URL", "memory://project")  # not for the worker's own app
        with a_worker(stack, f"celery-{request.param}", *options, steps=_PROJECT):
            yield request.param


def _submit(client: Client, pool: str, task: str, *args: Any, **options: Any) -> str:
    step = {"key": "s", "uses": f"celery:project.{task}", "with": {"args": list(args)}, **options}
    name = f"{pool}-{task.replace('_', '-')}"
    return str(submit(client, {"name": name, "queue": f"celery-{pool}", "steps": [step]})["id"])


def _step(client: Client, pool: str, task: str, *args: Any, **options: Any) -> dict[str, Any]:
    """The step that runs this task, once its run has ended."""
    run = ended(client, _submit(client, pool, task, *args, **options), within=60)
    step: dict[str, Any] = run["steps"][0]
    return step


@pytest.mark.parametrize(
    ("task", "args", "result"),
    [
        ("add", (2, 3), 5),
        ("discovered", (), "discovered"),
        ("shared", (), ["project"] * 2),
        ("counted", (1,), {"value": 1, "called_directly": False}),
    ],
)
def test_tasks_are_found_as_by_celerys_own_worker(
    client: Client, pool: str, task: str, args: tuple[int, ...], result: Any
) -> None:
    assert _step(client, pool, task, *args)["result"] == result


def test_the_request_is_that_of_the_message(client: Client, pool: str) -> None:
    step = _step(client, pool, "request", "x")

    assert step["result"].pop("hostname") == step["worker"]
    assert step["result"] == {
        "id": f"{step['id']}.1", "retries": 0, "args": ["x"], "kwargs": {},
        "called_directly": False, "is_eager": False,
    }  # fmt: skip


def test_a_retry_of_the_task_is_an_attempt_of_the_step(client: Client, pool: str) -> None:
    step = _step(client, pool, "flaky")

    assert (step["state"], step["result"]) == ("succeeded", {"retries": 2})
    assert (step["attempt"], step["max_attempts"]) == (3, 4)


def test_a_countdown_is_a_row_that_waits(client: Client, pool: str) -> None:
    run = _submit(client, pool, "default_delay")

    eventually(lambda: client.run(run)["steps"][0]["state"] == "waiting", within=60)
    (step,) = client.explain(run)["steps"]
    client.cancel(run)

    assert step["cause"]["text"].startswith("try 2 of 4 is due at")
    assert step["cause"]["text"].endswith("after: Retry in 120s")
    assert ended(client, run)["state"] == "cancelled"


def test_after_its_retries_the_step_fails_with_the_tasks_exception(
    client: Client, pool: str
) -> None:
    step = _step(client, pool, "flaky", 9)

    assert (step["state"], step["attempt"]) == ("failed", 4)
    assert step["error"]["kind"] == "ConnectionError"
    assert step["error"]["message"] == "ConnectionError: refused"
    assert "in flaky" in step["error"]["traceback"]


def test_the_policy_of_the_step_comes_before_that_of_the_task(client: Client, pool: str) -> None:
    policy = {"attempts": 2, "delay": "10ms", "on": ["OSError", "MaxRetriesExceededError"]}

    step = _step(client, pool, "flaky", 9, retry=policy)
    default_delay = _step(client, pool, "default_delay", retry=policy)

    assert (step["attempt"], step["error"]["kind"]) == (2, "ConnectionError")
    assert default_delay["attempt"] == 1  # its retry has no cause that the policy names


def test_a_manual_retry_counts_from_the_beginning(client: Client, pool: str) -> None:
    run = _submit(client, pool, "flaky", 9)
    ended(client, run, within=60)
    client.retry(run)

    assert ended(client, run, within=60)["steps"][0]["attempt"] == 8


def test_what_a_step_cannot_do_fails_it_at_once(client: Client, pool: str) -> None:
    step = _step(client, pool, "greedy")

    assert (step["state"], step["attempt"], step["error"]["kind"]) == ("failed", 1, "FailStep")
    assert step["error"]["message"] == (
        "celery:project.greedy calls self.replace(), which a step cannot do:"
        " call the other task, or make it a step of its own"
    )


def test_a_state_of_the_task_is_progress(client: Client, pool: str) -> None:
    step = _step(client, pool, "progress", "LOADING", {"current": 1, "total": 4, "status": "on it"})

    assert (step["stage"], step["message"]) == ("LOADING", "on it")
    assert step["result"]["state"] == "LOADING"


def test_a_time_limit_is_the_timeout_of_a_step_without_one(client: Client, pool: str) -> None:
    step = _step(client, pool, "abortable")

    if pool == "threads":  # nothing is raised there: the task sees that it should stop
        assert step["result"] == "aborted"
    else:
        assert step["error"] == {
            "kind": "Timeout", "message": "the step ran longer than its timeout of 0.5 s"
        }  # fmt: skip


def test_a_cancel_reaches_the_task(client: Client, pool: str) -> None:
    run = _submit(client, pool, "waits")
    eventually(lambda: client.run(run)["steps"][0]["stage"] == "WAITING", within=60)

    client.cancel(run)

    assert ended(client, run)["state"] == "cancelled"
    assert _step(client, pool, "add", 1, 2)["result"] == 3  # the worker goes on


@pytest.mark.parametrize("pool", ["prefork"], indirect=True)
def test_a_soft_time_limit_is_raised_in_the_task(client: Client, pool: str) -> None:
    failed = _step(client, pool, "slow", False)
    finished = _step(client, pool, "slow", True)
    own = _step(client, pool, "slow", False, timeout="100ms")

    assert failed["error"]["kind"] == "Timeout"
    assert failed["error"]["message"] == "the step ran longer than its soft time limit of 0.3 s"
    assert finished["result"] == "cleaned up"
    assert own["error"]["message"] == "the step ran longer than its timeout of 0.1 s"


def test_a_task_that_cannot_be_a_step_ends_the_worker_with_one_sentence(
    settings: Settings, tmp_path: Path
) -> None:
    (tmp_path / "limited.py").write_text(_LIMITED)
    environ = environ_of(replace(settings, steps=("limited",)))
    path = f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"

    worker = subprocess.run(
        [sys.executable, "-m", "orchestrator", "worker", "--once", "--name", "limited"],
        env={**os.environ, **environ, "PYTHONPATH": path},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip

    assert worker.returncode == 1
    assert worker.stderr.splitlines()[-1] == (
        "Error: Celery task 'limited.sms' has rate_limit='10/m', which cannot be kept when the task"
        " runs as a step: remove the option, or set it to None by task_annotations"
    )
    assert "Traceback" not in worker.stderr
