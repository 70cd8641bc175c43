"""Mage on real processes: triggers pulled as `curl --data` does it, retries, deletion."""

import json
from pathlib import Path
from typing import Any

import pytest
import requests
from sqlalchemy import Engine

from orchestrator.client import Client
from orchestrator.local.stack import Stack
from tests.contracts.adapters.mage import ADAPTER
from tests.e2e.contract_client import WITHIN, ContractClient
from tests.support.factories import eventually
from tests.support.processes import lines_in

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
FREE = {
    "name": "mage_free",
    "steps": [
        {"key": "load", "uses": "noop", "with": {"seen": "{{ params.env }}"}},
        {"key": "push", "uses": "noop", "with": {"seen": "{{ params.test }}"}},
    ],
}
HANG = {"name": "mage_hang", "steps": [{"key": "hang", "uses": "tests.support.handlers.hang"}]}


class Mage(ContractClient):
    """Mage's API as its clients use it: the key in the query, errors by a field of the body."""

    def __init__(self, stack: Stack, engine: Engine) -> None:
        super().__init__(ADAPTER, stack, engine, headers={}, query={"api_key": stack.key})

    def call(self, method: str, path: str, body: Any = None, **query: Any) -> Any:
        content = super().call(method, f"/api/{path}", body, **query)
        assert "error" not in content, content
        return content

    def trigger(self, pipeline: str, body: Any, **settings: Any) -> dict[str, Any]:
        """Create a trigger, and pull it as `curl --data` does."""
        fields = {"schedule_type": "api", "status": "active", **settings}
        path = f"pipelines/{pipeline}/pipeline_schedules"
        schedule = self.call("POST", path, {"pipeline_schedule": fields})["pipeline_schedule"]
        response = requests.post(
            f"{self.url}/api/pipeline_schedules/{schedule['id']}/pipeline_runs/{schedule['token']}",
            data=json.dumps(body),
            headers={"Content-Type": "application/x-www-form-urlencoded"},
            timeout=WITHIN,
        )
        run: dict[str, Any] = response.json()["pipeline_run"]
        assert (run["status"], run["pipeline_schedule_id"]) == ("running", schedule["id"])
        return run

    def run(self, number: int) -> dict[str, Any]:
        return self.call("GET", f"pipeline_runs/{number}")["pipeline_run"]

    def put(self, number: int, **change: Any) -> dict[str, Any]:
        return self.call("PUT", f"pipeline_runs/{number}", {"pipeline_run": change})["pipeline_run"]

    def finished(self, number: int) -> dict[str, Any]:
        """The run, once it is not running any more."""
        self.final_state(str(number))
        return self.run(number)


@pytest.fixture
def mage(stack: Stack, engine: Engine) -> Mage:
    return Mage(stack, engine)


def test_a_payload_starts_a_run_that_completes(mage: Mage, client: Client) -> None:
    client.apply(ECHO)
    body = {"pipeline_run": {"variables": {"day": "2026-04-01"}}, "source": "billing"}

    started = mage.trigger("mage_echo", body)
    run = mage.finished(started["id"])

    assert (run["status"], run["variables"]) == ("completed", {"day": "2026-04-01"})
    assert run["event_variables"] == {"source": "billing"}
    assert run["started_at"] < run["completed_at"]
    page = mage.call("GET", f"pipeline_schedules/{run['pipeline_schedule_id']}/pipeline_runs")
    (listed,) = page["pipeline_runs"]
    assert page["metadata"] == {"count": 1, "next": False}
    assert (listed["block_runs_count"], listed["completed_block_runs_count"]) == (2, 2)
    assert [block["status"] for block in listed["block_runs"]] == ["completed", "completed"]


def test_a_run_that_failed_is_retried_until_it_completes(mage: Mage, client: Client) -> None:
    client.apply(FLAKY)
    number = mage.trigger("mage_flaky", {})["id"]

    for end in ("failed", "failed", "completed"):
        run = mage.finished(number)
        assert run["status"] == end
        if end == "failed":
            blocks = {block["block_uuid"]: block for block in run["block_runs"]}
            assert blocks["push"]["metrics"]["error"]["error"] == "not yet"
            again = mage.put(number, pipeline_run_action="retry_blocks")
            assert (again["id"], again["completed_at"]) == (number, None)

    body = {"pipeline": {"status": "retry", "pipeline_runs": [run]}}
    mage.call("PUT", "pipelines/mage_flaky", body)
    (new, old) = mage.call("GET", "pipeline_runs", pipeline_uuid="mage_flaky")["pipeline_runs"]
    assert old["id"] == number
    assert new["execution_date"] == old["execution_date"]
    assert mage.finished(new["id"])["status"] == "failed"  # it counts from the first attempt again


def test_a_cancelled_run_is_shown_as_cancelled_at_once(
    mage: Mage, client: Client, say: Path
) -> None:
    client.apply(HANG)
    number = mage.trigger("mage_hang", {}, variables={"say": str(say)})["id"]
    lines_in(say, within=30)

    run = mage.put(number, status="cancelled")

    assert (run["status"], run["completed_at"]) == ("cancelled", None)
    (block,) = mage.run(number)["block_runs"]
    assert block["status"] == "cancelled"
    eventually(lambda: client.runs(workflow="mage_hang")["items"][0]["finished_at"], within=30)
    assert mage.put(number, status="cancelled")["status"] == "cancelled"
    assert mage.call("DELETE", f"pipeline_runs/{number}")["pipeline_run"]["id"] == number


@pytest.mark.row("The published programme: session, pipelines, trigger, poll, list, all by curl")
def test_the_published_calls_in_their_order(mage: Mage, client: Client, stack: Stack) -> None:
    client.apply(FREE)
    fields = {"schedule_type": "api", "status": "active"}
    path = "pipelines/mage_free/pipeline_schedules"
    trigger = mage.call("POST", path, {"pipeline_schedule": fields})["pipeline_schedule"]
    web, url = requests.Session(), f"{stack.url}/api"

    body = {"session": {"email": "admin@admin.com", "password": stack.key}}
    session = web.post(f"{url}/sessions", json=body, timeout=WITHIN).json()["session"]
    web.headers["Cookie"] = f"oauth_token={session['token']}"
    assert web.get(f"{url}/statuses", timeout=WITHIN).json()["statuses"]
    pipelines = web.get(f"{url}/pipelines", timeout=WITHIN).json()["pipelines"]
    assert "mage_free" in [each["uuid"] for each in pipelines]
    runs = f"{url}/pipeline_schedules/{trigger['id']}/pipeline_runs"
    started = requests.post(
        f"{runs}/{trigger['token']}",
        data='{"env": "dev", "test": 1}',
        headers={"Content-Type": "application/x-www-form-urlencoded"},
        timeout=WITHIN,
    ).json()["pipeline_run"]
    assert (started["status"], started["event_variables"]) == ("running", {"env": "dev", "test": 1})

    def listed() -> dict[str, Any]:
        query = {"api_key": stack.key, "_limit": "20", "_offset": "0"}
        headers = {"Authorization": f"Bearer {stack.key}"}
        page = requests.get(runs, params=query, headers=headers, timeout=WITHIN).json()
        assert page["metadata"] == {"count": 1, "next": False}
        return dict(page["pipeline_runs"][0])

    run = eventually(listed, within=WITHIN, until=lambda run: run["status"] != "running")
    assert (run["id"], run["status"]) == (started["id"], "completed")
    assert [block["status"] for block in run["block_runs"]] == ["completed", "completed"]
    (row,) = client.runs(workflow="mage_free")["items"]
    results = [step["result"] for step in client.run(row["id"])["steps"]]
    assert results == [{"seen": "dev"}, {"seen": 1}]
