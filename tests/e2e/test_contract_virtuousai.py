"""VirtuousAI's automation runs as a page in a browser uses them: by cookie, with an EventSource."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from orchestrator.local.stack import Stack

WITHIN = 30  # seconds


class Page:
    """A page whose browser has the cookie of a session; it can set no headers on its streams."""

    def __init__(self, stack: Stack) -> None:
        self._url = f"{stack.url}/api/v1"
        self._session = requests.Session()
        self._session.cookies.set("vai_token", stack.key)

    def get(self, path: str, **query: Any) -> Any:
        return self._asked("GET", path, params=query)

    def post(self, path: str, body: Any = None) -> Any:
        return self._asked("POST", path, json=body)

    def refused(self, path: str) -> tuple[int, Any]:
        answer = self._session.post(f"{self._url}{path}", timeout=WITHIN)
        return answer.status_code, answer.json()["detail"]

    def messages(self, path: str) -> Iterator[dict[str, Any]]:
        """What `onmessage` gets: an EventSource comes again after each end until it is told 204."""
        last: dict[str, str] = {}
        while True:
            where = f"{self._url}{path}"
            with self._session.get(where, headers=last, stream=True, timeout=WITHIN) as answer:
                if answer.status_code == 204:
                    return
                assert answer.headers["Content-Type"].startswith("text/event-stream")
                for message in _parsed(answer.iter_lines(chunk_size=1, decode_unicode=True)):
                    last = {"Last-Event-ID": message["id"]}
                    yield json.loads(message["data"])

    def _asked(self, method: str, path: str, **sent: Any) -> Any:
        answer = self._session.request(method, f"{self._url}{path}", timeout=WITHIN, **sent)
        assert answer.status_code == 200, answer.text
        return answer.json()


def _parsed(lines: Iterator[str]) -> Iterator[dict[str, str]]:
    """The unnamed messages of a stream, as WHATWG HTML 9.2.6 reads them."""
    message: dict[str, str] = {}
    for line in lines:
        if not line and "data" in message and "event" not in message:
            yield message
        name, _, value = line.partition(": ")
        message = {**message, name: value} if line else {}


@pytest.fixture
def page(stack: Stack) -> Page:
    return Page(stack)


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
    automation = page.post("/automations", {"name": "Invoice export", "config": config})
    run = page.post(f"/automations/{automation['id']}/runs", {"input": {"day": "2026-04-01"}})
    path = f"/automation-runs/{run['id']}"

    told = [message["event"] for message in page.messages(f"{path}/events")]

    assert (told[0], told[-1]) == ("automation.triggered", "automation.completed")
    assert told.count("action.completed") == 2
    shown, steps = page.get(path), page.get(f"{path}/steps")
    assert (shown["status"], shown["error"]) == ("completed", None)
    assert shown["durationSeconds"] >= 0
    assert shown["externalJobId"] == run["externalJobId"]
    assert steps["completedCount"] == 2
    assert steps["steps"][0]["result"] == {"day": "2026-04-01"}
    assert page.get(f"/automations/{automation['id']}")["latestRun"]["status"] == "completed"
    assert page.refused(f"{path}/cancel") == (409, "Run is already in a terminal state: completed")
    assert page.refused(f"{path}/retry")[0] == 409


def test_a_run_that_fails_is_retried_in_place_until_it_goes_well(page: Page) -> None:
    config = _steps(
        "noop", "tests.support.handlers.flaky", "noop"
    )  # it goes well at the third attempt
    automation = page.post("/automations", {"name": "flaky ledger", "config": config})
    run = page.post(f"/automations/{automation['id']}/runs")
    path = f"/automation-runs/{run['id']}"
    messages = page.messages(f"{path}/events")

    ends, kept = [], set()
    for message in messages:
        kept.add((message["event"], message["data"].get("stepKey")))
        if message["event"] == "automation.failed":
            failed = page.get(path)
            assert failed["error"]["stepKey"] == "s2"
            counted = page.get(f"{path}/steps")
            assert [counted["completedCount"], counted["failedCount"]] == [1, 1]
            assert [step["status"] for step in counted["steps"]][-1] == "skipped"
            retried = page.post(f"{path}/retry", {"mode": "from_failed"})
            assert (retried["id"], retried["status"], retried["error"]) == (
                run["id"], "pending", None,
            )  # fmt: skip
        if message["event"].startswith("automation."):
            ends.append(message["event"].removeprefix("automation."))

    assert ends == [
        "triggered", "started", "failed", "retried", "started", "failed", "retried", "started",
        "completed",
    ]  # fmt: skip
    assert page.get(path)["status"] == "completed"
    assert page.get(f"{path}/steps")["steps"][1]["result"] == {"attempt": 3}
    assert page.get("/automation-runs", status="completed", limit=1)["total"] >= 1
    happened = page.get("/events", resource_id=run["id"], event_type="automation.failed")
    assert happened["total"] == 2


def test_a_run_is_cancelled_while_it_works(page: Page, say: Path) -> None:
    config = _steps("tests.support.handlers.tidy", "noop")
    automation = page.post("/automations", {"name": "tidy", "config": config})
    run = page.post(f"/automations/{automation['id']}/runs", {"input": {"say": str(say)}})
    path = f"/automation-runs/{run['id']}"

    told = []
    for message in page.messages(f"{path}/events"):
        told.append(message["event"])
        if message["event"] == "action.started":
            assert page.post(f"{path}/cancel")["status"] in ("running", "cancelled")

    assert told[-1] == "automation.cancelled"
    assert "action.completed" not in told
    shown = page.get(path)
    assert (shown["status"], shown["error"]) == ("cancelled", None)
    steps = page.get(f"{path}/steps")
    assert [step["status"] for step in steps["steps"]] == ["cancelled", "cancelled"]
    assert steps["completedCount"] == steps["pendingCount"] == steps["runningCount"] == 0
    assert page.refused(f"{path}/cancel")[0] == 409
