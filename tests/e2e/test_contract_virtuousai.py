"""VirtuousAI on real processes, as a page in a browser uses it: by cookie, with an EventSource."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from sqlalchemy import Engine

from orchestrator.local.stack import Stack
from tests.contracts.adapters.virtuousai import ADAPTER
from tests.e2e.contract_client import WITHIN, ContractClient


class Page(ContractClient):
    """A page whose browser has the cookie of a session; it can set no headers on its streams."""

    def __init__(self, stack: Stack, engine: Engine) -> None:
        super().__init__(ADAPTER, stack, engine, headers={})
        self._session = {"vai_token": stack.key}
        self.set_cookie("vai_token", stack.key)

    def read(self, path: str, **query: Any) -> Any:
        return self.call("GET", f"/api/v1{path}", **query)

    def send(self, path: str, body: Any = None) -> Any:
        return self.call("POST", f"/api/v1{path}", body)

    def refused(self, path: str) -> tuple[int, Any]:
        response = self.post(f"/api/v1{path}")
        return response.status_code, response.json["detail"]

    def messages(self, path: str) -> Iterator[dict[str, Any]]:
        """What `onmessage` receives: an EventSource reconnects after each end, until status 204."""
        url, options = f"{self.url}/api/v1{path}", {"cookies": self._session, "timeout": WITHIN}
        headers: dict[str, str] = {}
        while True:
            with requests.get(url, headers=headers, stream=True, **options) as response:
                if response.status_code == 204:
                    return
                assert response.headers["Content-Type"].startswith("text/event-stream")
                for message in _parsed(response.iter_lines(chunk_size=1, decode_unicode=True)):
                    headers["Last-Event-ID"] = message["id"]
                    yield json.loads(message["data"])


def _parsed(lines: Iterator[str]) -> Iterator[dict[str, str]]:
    """The unnamed messages of a stream, as WHATWG HTML 9.2.6 reads them."""
    message: dict[str, str] = {}
    for line in lines:
        if not line and "data" in message and "event" not in message:
            yield message
        name, _, value = line.partition(": ")
        message = {**message, name: value} if line else {}


@pytest.fixture
def page(stack: Stack, engine: Engine) -> Page:
    return Page(stack, engine)


def _steps(*uses: str) -> dict[str, Any]:
    return {"steps": [{"key": f"s{at}", "uses": name} for at, name in enumerate(uses, start=1)]}


def test_an_automation_is_made_run_and_watched_to_its_results(page: Page) -> None:
    config = {
        "params": {"type": "object", "properties": {"day": {"type": "string"}}},
        "steps": [
            {"key": "load", "name": "Load orders", "uses": "noop",
             "with": {"day": "{{ params.day }}"}},
            {"key": "push", "uses": "noop"},
        ],
    }  # fmt: skip
    automation = page.send("/automations", {"name": "Invoice export", "config": config})
    run = page.send(f"/automations/{automation['id']}/runs", {"input": {"day": "2026-04-01"}})
    path = f"/automation-runs/{run['id']}"

    events = [message["event"] for message in page.messages(f"{path}/events")]

    assert (events[0], events[-1]) == ("automation.triggered", "automation.completed")
    assert events.count("action.completed") == 2
    shown, steps = page.read(path), page.read(f"{path}/steps")
    assert (shown["status"], shown["error"]) == ("completed", None)
    assert shown["durationSeconds"] >= 0
    assert shown["externalJobId"] == run["externalJobId"]
    assert steps["completedCount"] == 2
    assert steps["steps"][0]["result"] == {"day": "2026-04-01"}
    assert page.read(f"/automations/{automation['id']}")["latestRun"]["status"] == "completed"
    assert page.refused(f"{path}/cancel") == (409, "Run is already in a terminal state: completed")
    assert page.refused(f"{path}/retry")[0] == 409


def test_a_run_that_fails_is_retried_in_place_until_it_goes_well(page: Page) -> None:
    config = _steps("noop", "tests.support.handlers.flaky", "noop")  # succeeds the third time
    automation = page.send("/automations", {"name": "flaky ledger", "config": config})
    run = page.send(f"/automations/{automation['id']}/runs")
    path = f"/automation-runs/{run['id']}"
    messages = page.messages(f"{path}/events")

    ends = []
    for message in messages:
        if message["event"] == "automation.failed":
            failed = page.read(path)
            assert failed["error"]["stepKey"] == "s2"
            counted = page.read(f"{path}/steps")
            assert [counted["completedCount"], counted["failedCount"]] == [1, 1]
            assert [step["status"] for step in counted["steps"]][-1] == "skipped"
            retried = page.send(f"{path}/retry", {"mode": "from_failed"})
            assert (retried["id"], retried["status"], retried["error"]) == (
                run["id"], "pending", None,
            )  # fmt: skip
        if message["event"].startswith("automation."):
            ends.append(message["event"].removeprefix("automation."))

    assert ends == [
        "triggered", "started", "failed", "retried", "started", "failed", "retried", "started",
        "completed",
    ]  # fmt: skip
    assert page.read(path)["status"] == "completed"
    assert page.read(f"{path}/steps")["steps"][1]["result"] == {"attempt": 3}
    assert page.read("/automation-runs", status="completed", limit=1)["total"] >= 1
    happened = page.read("/events", resource_id=run["id"], event_type="automation.failed")
    assert happened["total"] == 2


def test_a_run_is_cancelled_while_it_works(page: Page, say: Path) -> None:
    config = _steps("tests.support.handlers.tidy", "noop")
    automation = page.send("/automations", {"name": "tidy", "config": config})
    run = page.send(f"/automations/{automation['id']}/runs", {"input": {"say": str(say)}})
    path = f"/automation-runs/{run['id']}"

    events = []
    for message in page.messages(f"{path}/events"):
        events.append(message["event"])
        if message["event"] == "action.started":
            assert page.send(f"{path}/cancel")["status"] in ("running", "cancelled")

    assert events[-1] == "automation.cancelled"
    assert "action.completed" not in events
    shown = page.read(path)
    assert (shown["status"], shown["error"]) == ("cancelled", None)
    steps = page.read(f"{path}/steps")
    assert [step["status"] for step in steps["steps"]] == ["cancelled", "cancelled"]
    assert steps["completedCount"] == steps["pendingCount"] == steps["runningCount"] == 0
    assert page.refused(f"{path}/cancel")[0] == 409
