"""Commands of `shell` on real workers: their log, their end, and what they leave behind."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator.client import Client
from orchestrator.local.stack import Stack
from tests.support.factories import eventually
from tests.support.processes import a_worker, ended, is_alive, lines_in, submit, the_worker


@pytest.fixture(scope="module", params=["prefork", "threads"])
def queue(stack: Stack, request: pytest.FixtureRequest) -> Iterator[str]:
    """The queue of a worker that allows `shell`, with each pool."""
    name = f"shell-{request.param}"
    with a_worker(stack, name, "--pool", request.param, allow_shell="1"):
        eventually(lambda: the_worker(stack, name), within=30)
        yield name


def _spec(queue: str, command: str, **more: Any) -> dict[str, Any]:
    step = {"key": "s", "uses": "shell", "with": {"command": command}, **more}
    return {"name": queue, "queue": queue, "steps": [step]}


def _log(client: Client, run_id: str) -> list[tuple[str, str]]:
    return [(line["level"], line["text"]) for line in client.log(run_id)["items"]]


def test_the_log_shows_what_a_command_prints_while_it_runs(
    client: Client, queue: str, tmp_path: Path
) -> None:
    go = tmp_path / "go"
    command = f"echo one; echo two >&2; until [ -e {go} ]; do sleep 0.1; done; echo three; exit 4"

    run = submit(client, _spec(queue, command))
    live = eventually(
        lambda: _log(client, run["id"]), within=20, until=lambda lines: len(lines) == 2
    )
    go.touch()
    run = ended(client, run["id"])

    assert sorted(live) == [("info", "one"), ("warning", "two")]
    assert _log(client, run["id"])[2] == ("info", "three")
    assert run["steps"][0]["error"]["message"] == "RuntimeError: exit code 4: two"


def test_a_step_ends_with_its_command_and_nothing_of_it_goes_on(
    client: Client, queue: str, tmp_path: Path
) -> None:
    pids = tmp_path / "pids"
    command = f"""
        sleep 600 & echo $! >> {pids}
        setsid sh -c 'echo $$ >> {pids}; sleep 600; true' &
        nohup setsid sh -c 'echo $$ >> {pids}; exec sleep 600' > /dev/null 2>&1 &
        until [ $(wc -l < {pids}) = 3 ]; do sleep 0.1; done
        echo done
    """

    run = ended(client, submit(client, _spec(queue, command))["id"])

    assert run["steps"][0]["result"] == {"exit_code": 0, "stdout": "done\n", "stderr": ""}
    for pid in lines_in(pids, 3):
        eventually(lambda pid=int(pid): not is_alive(pid))


@pytest.mark.parametrize("end", ["cancel", "timeout"])
def test_a_command_that_is_stopped_can_clean_up(
    client: Client, queue: str, tmp_path: Path, end: str
) -> None:
    pid = tmp_path / "pid"
    command = f"trap 'echo bye; exit 1' TERM; echo $$ > {pid}; while true; do sleep 0.1; done"

    run = submit(client, _spec(queue, command, **({"timeout": "2s"} if end == "timeout" else {})))
    started = int(lines_in(pid)[0])
    if end == "cancel":
        client.cancel(run["id"])
    run = ended(client, run["id"])

    assert run["state"] == ("cancelled" if end == "cancel" else "failed")
    assert not is_alive(started)
    assert ("info", "bye") in _log(client, run["id"])


def test_a_command_may_print_more_than_memory_would_hold(client: Client, queue: str) -> None:
    command = "head -c 300000000 /dev/zero | tr '\\0' x | fold -w 4000; echo; echo end"

    run = ended(client, submit(client, _spec(queue, command))["id"], within=60)

    assert run["state"] == "succeeded"
    assert run["steps"][0]["result"]["stdout"].endswith("\nend\n")
    if queue == "shell-prefork":  # in threads the peak is that of the process's whole life
        assert run["steps"][0]["usage"]["peak_memory_bytes"] < 280 * 2**20
