"""Event streams over real HTTP: a client that reconnects often, and one that does not."""

import json
import random
from typing import Any

import requests

from orchestrator.client import Client
from orchestrator.local.stack import Stack
from tests.support.processes import submit

RECONNECTS = 200


def _visit(stack: Stack, run_id: str, last_id: str | None, limit: int) -> list[dict[str, Any]]:
    """Up to `limit` events of one connection, which is then closed; -1 for all."""
    headers = {"Authorization": f"Bearer {stack.key}", "Accept": "text/event-stream"}
    if last_id is not None:
        headers["Last-Event-ID"] = last_id
    seen: list[dict[str, Any]] = []
    url = f"{stack.url}/api/v1/runs/{run_id}/events"
    with requests.get(url, headers=headers, stream=True, timeout=30) as response:
        if response.status_code == 204:
            return seen
        assert response.ok, response.text
        for line in response.iter_lines(chunk_size=1):
            if line.startswith(b"data: "):
                seen.append(json.loads(line[6:]))
            if len(seen) == limit:
                break
    return seen


def test_a_client_that_reconnects_200_times_sees_every_event_once_and_in_order(
    stack: Stack, client: Client
) -> None:
    steps = [{"key": f"s{n}", "uses": "noop"} for n in range(150)]
    run_id = submit(client, {"name": "reconnected", "steps": steps})["id"]
    chance = random.Random(3)

    seen: list[dict[str, Any]] = []
    visits = 0
    while visits < RECONNECTS:
        last_id = str(seen[-1]["seq"]) if seen else None
        seen += _visit(stack, run_id, last_id, chance.randint(1, 3))
        visits += 1
    seen += _visit(stack, run_id, str(seen[-1]["seq"]), -1)

    assert [event["seq"] for event in seen] == list(range(1, len(seen) + 1))
    assert seen[-1]["type"] == "run.succeeded"
    assert len(seen) >= 2 * 150


def test_a_stream_has_every_event_of_a_run_until_its_end(stack: Stack, client: Client) -> None:
    steps = [{"key": f"s{n}", "uses": "sleep", "with": {"seconds": 0.2}} for n in range(4)]
    run_id = submit(client, {"name": "streamed", "steps": steps})["id"]

    seen = _visit(stack, run_id, None, -1)

    ends = [event["step"] for event in seen if event["type"] == "step.succeeded"]
    assert ends == ["s0", "s1", "s2", "s3"]
    assert seen[-1]["type"] == "run.succeeded"
