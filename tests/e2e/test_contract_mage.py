"""Mage's story on real processes: triggers pulled as `curl --data` does it, and runs polled."""

import json
from pathlib import Path
from typing import Any

import pytest
import requests

from orchestrator.client import Client
from orchestrator.local.stack import Stack
from tests.support.factories import eventually
from tests.support.processes import said

ECHO = {
    "name": "mage_echo",
    "params": {"type": "object", "properties": {"day": {"type": "string"}}},
    "steps": [
        {"key": "load", "uses": "noop", "with": {"day": "{{ params.day }}"}},
        {"key": "tell", "uses": "noop", "with": {"from": "{{ run.event_variables.source }}"}},
    ],
}
FLAKY = {
    "name": "mage_flaky",
    "steps": [
        {"key": "load", "uses": "noop"},
        {"key": "push", "uses": "tests.support.handlers.flaky"},
        {"key": "tell", "uses": "noop"},
    ],
}
HANG = {"name": "mage_hang", "steps": [{"key": "hang", "uses": "tests.support.handlers.hang"}]}


class Mage:
    """Mage's API, asked as its clients do: with the key in the query, looking for `error`."""

    def __init__(self, url: str, key: str) -> None:
        self._url, self._key = f"{url}/api", key

    def ask(self, method: str, path: str, body: Any = None, **query: Any) -> dict[str, Any]:
        query["api_key"] = self._key
        reply = requests.request(method, f"{self._url}/{path}", params=query, json=body, timeout=30)
        assert reply.status_code == 200, reply.text
        answer: dict[str, Any] = reply.json()
        assert "error" not in answer, answer
        return answer

    def trigger(self, pipeline: str, body: Any, **settings: Any) -> dict[str, Any]:
        """Make a trigger, and pull it as `curl --data` would."""
        asked = {"schedule_type": "api", "status": "active", **settings}
        path = f"pipelines/{pipeline}/pipeline_schedules"
        made = self.ask("POST", path, {"pipeline_schedule": asked})["pipeline_schedule"]
        reply = requests.post(
            f"{self._url}/pipeline_schedules/{made['id']}/pipeline_runs/{made['token']}",
            data=json.dumps(body),
            headers={"Content-Type": "application/x-www-form-urlencoded"},
            timeout=30,
        )
        run: dict[str, Any] = reply.json()["pipeline_run"]
        assert (run["status"], run["pipeline_schedule_id"]) == ("running", made["id"])
        return run

    def run(self, number: int) -> dict[str, Any]:
        run: dict[str, Any] = self.ask("GET", f"pipeline_runs/{number}")["pipeline_run"]
        return run

    def put(self, number: int, **change: Any) -> dict[str, Any]:
        answer = self.ask("PUT", f"pipeline_runs/{number}", {"pipeline_run": change})
        run: dict[str, Any] = answer["pipeline_run"]
        return run

    def polled(self, number: int) -> dict[str, Any]:
        """The run, once it is not running any more: whatever else it is then is its end."""
        return eventually(
            lambda: self.run(number), within=30, until=lambda run: run["status"] != "running"
        )


@pytest.fixture
def mage(stack: Stack) -> Mage:
    return Mage(stack.url, stack.key)


def test_a_payload_starts_a_run_that_completes(mage: Mage, client: Client) -> None:
    client.apply(ECHO)
    body = {"pipeline_run": {"variables": {"day": "2026-04-01"}}, "source": "billing"}

    started = mage.trigger("mage_echo", body)
    run = mage.polled(started["id"])

    assert (run["status"], run["variables"]) == ("completed", {"day": "2026-04-01"})
    assert run["event_variables"] == {"source": "billing"}
    assert run["started_at"] < run["completed_at"]
    page = mage.ask("GET", f"pipeline_schedules/{run['pipeline_schedule_id']}/pipeline_runs")
    (listed,) = page["pipeline_runs"]
    assert page["metadata"] == {"count": 1, "next": False}
    assert (listed["block_runs_count"], listed["completed_block_runs_count"]) == (2, 2)
    assert [block["status"] for block in listed["block_runs"]] == ["completed", "completed"]


def test_a_run_that_failed_is_retried_until_it_completes(mage: Mage, client: Client) -> None:
    client.apply(FLAKY)
    number = mage.trigger("mage_flaky", {})["id"]

    for end in ("failed", "failed", "completed"):
        run = mage.polled(number)
        blocks = {block["block_uuid"]: block for block in run["block_runs"]}
        assert (run["status"], blocks["push"]["status"]) == (end, end)
        if end == "failed":
            assert blocks["tell"]["status"] == "upstream_failed"
            assert blocks["push"]["metrics"]["error"]["error"] == "not yet"
            again = mage.put(number, pipeline_run_action="retry_blocks")
            assert (again["id"], again["completed_at"]) == (number, None)

    whole = {"pipeline": {"status": "retry", "pipeline_runs": [run]}}
    mage.ask("PUT", "pipelines/mage_flaky", whole)
    (new, old) = mage.ask("GET", "pipeline_runs", pipeline_uuid="mage_flaky")["pipeline_runs"]
    assert old["id"] == number
    assert new["execution_date"] == old["execution_date"]
    assert mage.polled(new["id"])["status"] == "failed"  # it counts from the first attempt again


def test_a_run_is_cancelled_at_once_for_who_looks(mage: Mage, client: Client, say: Path) -> None:
    client.apply(HANG)
    number = mage.trigger("mage_hang", {}, variables={"say": str(say)})["id"]
    said(say, within=30)

    run = mage.put(number, status="cancelled")

    assert (run["status"], run["completed_at"]) == ("cancelled", None)
    (block,) = mage.run(number)["block_runs"]
    assert block["status"] == "cancelled"
    eventually(lambda: client.runs(workflow="mage_hang")["items"][0]["finished_at"], within=30)
    assert mage.put(number, status="cancelled")["status"] == "cancelled"
    assert mage.ask("DELETE", f"pipeline_runs/{number}")["pipeline_run"]["id"] == number
