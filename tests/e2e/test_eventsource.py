"""The streams of events as node's package `eventsource` reads them."""

import json
from typing import Any

import pytest

from orchestrator.client import Client
from orchestrator.local.stack import Stack
from tests.support import node
from tests.support.processes import submit

STEPS = [{"key": f"s{n}", "uses": "sleep", "with": {"seconds": 0.2}} for n in range(3)]


def _follow(stack: Stack, path: str) -> list[dict[str, Any]]:
    lines = node.run("follow.mjs", f"{stack.url}{path}", stack.key).splitlines()
    return [json.loads(line) for line in lines]


@node.needed
@pytest.mark.row("`GET /runs/{run_id}/events` as a stream: the package `eventsource` reads it")
def test_the_native_stream_is_read_until_the_run_has_ended(stack: Stack, client: Client) -> None:
    run_id = submit(client, {"name": "followed", "steps": STEPS})["id"]

    events = _follow(stack, f"/api/v1/runs/{run_id}/events")

    assert [int(each["id"]) for each in events] == list(range(1, len(events) + 1))
    assert [each["data"]["seq"] for each in events] == list(range(1, len(events) + 1))
    assert events[-1]["data"]["type"] == "run.succeeded"


@node.needed
@pytest.mark.row("`GET …/{run_id}/events`: the package `eventsource` reads it to its end")
def test_the_stream_of_an_automation_run_is_read_until_it_has_ended(
    stack: Stack, client: Client
) -> None:
    run_id = submit(client, {"name": "followed", "steps": STEPS})["id"]

    events = _follow(stack, f"/api/v1/automation-runs/{run_id}/events")

    names = [each["data"]["eventType"] for each in events]
    assert (names[0], names[-1]) == ("automation.triggered", "automation.completed")
    assert names.count("action.completed") == len(STEPS)
    numbers = [int(each["id"]) for each in events]
    assert numbers == sorted(set(numbers))
