"""What a step leaves behind reaches no other step: nasty neighbours, on real processes."""

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from orchestrator.client import Client
from orchestrator.local.stack import Stack
from tests.support import nasty
from tests.support.factories import PROMPT, eventually
from tests.support.processes import GRACE, a_worker, ended, submit, the_worker

QUEUE = "nasty"
KILLED = {
    "prints_and_exits", "prints_and_crashes", "prints_and_is_killed", "overwrites_its_files",
}  # fmt: skip
LINES = ["printed", "to stderr", "logged", "by a program", "by a descriptor"]


@pytest.fixture(scope="module")
def worker(stack: Stack) -> Iterator[psutil.Process]:
    """A worker of two children that knows the nasty steps."""
    steps = "tests.support.nasty"
    with a_worker(stack, QUEUE, "--concurrency", "2", steps=steps) as process:
        eventually(lambda: the_worker(stack, QUEUE), within=30)
        yield psutil.Process(process.pid)


def _spec(name: str, uses: str, **more: Any) -> dict[str, Any]:
    return {
        "name": name.replace("_", "-").lower(),
        "steps": [{"key": "s", "uses": uses, **{"queue": QUEUE, **more}}],
    }


def _result(run: dict[str, Any]) -> Any:
    return run["steps"][0]["result"]


def _texts(client: Client, run: dict[str, Any]) -> list[str]:
    return [line["text"] for line in client.log(run["id"])["items"]]


def _innocents(client: Client, number: int) -> list[dict[str, Any]]:
    """Runs of the innocent step, on as many children at once."""
    runs = _submit_innocents(client, number, seconds=0.3)
    return [ended(client, run["id"]) for run in runs]


def _submit_innocents(client: Client, number: int, seconds: float) -> list[dict[str, Any]]:
    spec = _spec("innocent", "innocent", **{"with": {"seconds": seconds}})
    return [submit(client, spec) for _ in range(number)]


def _cancels_take(client: Client) -> float:
    """Seconds from the cancel of an innocent step in each child to their ends."""
    runs = _submit_innocents(client, 2, seconds=60)
    try:
        for run in runs:
            eventually(lambda run=run: _texts(client, run) == LINES)
    finally:  # or the next tests would wait for them
        since = time.monotonic()
        for run in runs:
            client.cancel(run["id"], grace="60s")
    assert {ended(client, run["id"])["state"] for run in runs} == {"cancelled"}
    return time.monotonic() - since


@pytest.fixture(scope="module")
def expected(stack: Stack, worker: psutil.Process) -> dict[str, Any]:
    """The result of the innocent step in a fresh child."""
    run = _innocents(Client(stack.url, stack.key), 1)[0]
    assert run["state"] == "succeeded", run
    result: dict[str, Any] = _result(run)
    return result


@pytest.mark.parametrize("name", list(nasty.nasties))
def test_a_nasty_step_changes_nothing_for_its_neighbours(
    client: Client, expected: dict[str, Any], name: str
) -> None:
    neighbour = submit(client, _spec(name, f"nasty.{name}", timeout="20s"))
    runs = _innocents(client, 3)
    neighbour = ended(client, neighbour["id"])
    runs += _innocents(client, 2)

    assert _cancels_take(client) < 2 * PROMPT  # by the signal, not by force
    for run in runs:
        assert run["state"] == "succeeded"
        assert _result(run) == expected
        assert _texts(client, run) == LINES
        usage = run["steps"][0]["usage"]
        assert 0 <= usage["cpu_seconds"] < 5
        assert usage["peak_memory_bytes"] < 300 * 2**20
    assert neighbour["steps"][0]["attempt"] == (3 if name in KILLED else 1)
    fails = name in KILLED or name.startswith(("raises_", "returns_"))
    assert neighbour["state"] == ("failed" if fails else "succeeded"), neighbour["steps"][0][
        "error"
    ]


@pytest.mark.parametrize(
    ("name", "lines"),
    [
        ("prints_by_a_c_library", ["by C"]),
        ("prints_by_a_shell", ["by a shell", "to stderr"]),
        ("has_a_library_with_a_handler", ["once"]),
        ("wraps_streams", ["kept in a buffer"]),
        ("prints_and_exits", ["last words"] * 3),
        ("prints_and_crashes", ["last words"] * 3),
        ("prints_and_is_killed", ["last words"] * 3),
    ],
)
def test_output_is_in_the_log_of_its_attempt_once(
    client: Client, worker: psutil.Process, name: str, lines: list[str]
) -> None:
    run = ended(client, submit(client, _spec(f"log-{name}", f"nasty.{name}"))["id"])

    assert _texts(client, run) == lines
    assert run["state"] == ("failed" if name in KILLED else "succeeded")


def test_output_of_programs_is_visible_while_they_run(
    client: Client, worker: psutil.Process
) -> None:
    run = submit(client, _spec("live", "nasty.prints_and_hangs"))

    lines = eventually(lambda: _texts(client, run), until=lambda lines: len(lines) == 2)
    client.cancel(run["id"])

    assert lines == ["by a shell", "by Python"]
    assert ended(client, run["id"])["state"] == "cancelled"


def test_an_output_of_gigabytes_takes_no_memory_and_no_disk(
    client: Client, worker: psutil.Process
) -> None:
    run = ended(client, submit(client, _spec("much", "nasty.prints_gigabytes"))["id"], within=60)

    assert run["state"] == "succeeded"
    assert run["steps"][0]["usage"]["peak_memory_bytes"] < 400 * 2**20
    assert "lines were left out here" in " ".join(
        line["text"] for line in client.log(run["id"], tail=101)["items"]
    )
    eventually(lambda: _blocks(worker) < 32 * 2**20)


def _blocks(worker: psutil.Process) -> int:
    """The bytes on disk of the worker's output files."""
    folders = Path(tempfile.gettempdir()).glob(f"orchestrator-worker-{worker.pid}-*")
    files = [file for folder in folders for file in folder.iterdir()]
    assert files
    return sum(file.stat().st_blocks * 512 for file in files)


@pytest.mark.parametrize("name", list(nasty.FAILURES))
def test_a_failure_has_the_name_of_its_exception(
    client: Client, worker: psutil.Process, name: str
) -> None:
    run = ended(client, submit(client, _spec(f"failure-{name}", f"nasty.raises_{name}"))["id"])

    (step,) = run["steps"]
    assert (step["state"], step["attempt"]) == ("failed", 1)
    assert step["error"]["kind"] == name
    assert name in step["error"]["message"] or name == "FailStep"
    assert len(step["error"]["message"]) < 20_000


@pytest.mark.parametrize("name", ["leaves_programs", "leaves_a_stubborn_program"])
def test_programs_end_with_the_step_that_started_them(
    client: Client, worker: psutil.Process, name: str
) -> None:
    run = ended(client, submit(client, _spec(f"programs-{name}", f"nasty.{name}"))["id"])

    assert run["state"] == "succeeded"
    assert _texts(client, run)[-1].startswith("processes left behind were ended: ")
    assert _programs() == []


@pytest.mark.parametrize("way", ["cancel", "force", "timeout"])
@pytest.mark.parametrize("name", list(nasty.HANGING))
def test_a_hanging_step_is_stopped_whatever_it_did(
    client: Client, worker: psutil.Process, name: str, way: str
) -> None:
    more = {"timeout": "1s"} if way == "timeout" else {}
    run = submit(client, _spec(f"{way}-{name}", f"nasty.{name}", **more))
    eventually(lambda: _texts(client, run))  # its last line comes right before it hangs
    if way != "timeout":
        client.cancel(run["id"], force=way == "force")
    since = time.monotonic()
    run = ended(client, run["id"])

    assert time.monotonic() - since < GRACE.total_seconds() + PROMPT
    assert run["state"] == ("failed" if way == "timeout" else "cancelled")
    if way == "timeout":
        assert run["steps"][0]["error"]["kind"] == "Timeout"
    eventually(lambda: _programs() == [])


# In threads these reach the steps that run meanwhile: a process has one configuration of logging.
PROCESS_WIDE = {
    "configures_logging", "configures_logging_by_dictionary", "disables_logging",
    "silences_a_logger", "replaces_streams", "closes_buffers",
}  # fmt: skip
IN_THREADS = [
    *sorted(PROCESS_WIDE), "wraps_streams", "has_a_library_with_a_handler", "returns_a_liar",
    *(f"raises_{name}" for name in nasty.FAILURES),
]  # fmt: skip


@pytest.fixture(scope="module")
def threads(stack: Stack) -> Iterator[None]:
    """A worker of two threads that knows the nasty steps."""
    options = ("--pool", "threads", "--concurrency", "2")
    with a_worker(stack, "threads", *options, steps="tests.support.nasty"):
        eventually(lambda: the_worker(stack, "threads"), within=30)
        yield


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("name", IN_THREADS)
def test_in_threads_output_and_failures_stay_with_their_attempt(client: Client, name: str) -> None:
    spec = _spec("talks", "talks", queue="threads")
    neighbour = submit(client, _spec(f"{name}-t", f"nasty.{name}", queue="threads"))
    runs = [] if name in PROCESS_WIDE else [submit(client, spec)]
    neighbour = ended(client, neighbour["id"])
    runs += [submit(client, spec), submit(client, spec)]

    for run in runs:
        assert ended(client, run["id"])["state"] == "succeeded"
        assert _texts(client, run) == LINES[:3]
    assert neighbour["steps"][0]["attempt"] == 1


def _programs() -> list[psutil.Process]:
    """The programs of nasty steps that still run."""
    return [each for each in psutil.process_iter(["name", "cmdline"]) if _is_left_behind(each)]


def _is_left_behind(process: psutil.Process) -> bool:
    command = " ".join(process.info["cmdline"] or ())
    return command.startswith(nasty.PROGRAMS)
