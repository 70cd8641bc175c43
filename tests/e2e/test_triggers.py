"""Triggers with real schedulers and workers: an interval, a URL, another run."""

from datetime import UTC, datetime

import requests

from orchestrator.client import Client
from orchestrator.local.stack import Stack
from tests.support.factories import PROMPT, eventually
from tests.support.processes import ended

ECHO = {
    "name": "echo",
    "params": {"type": "object", "properties": {"day": {"type": "string"}}},
    "steps": [
        {
            "key": "say",
            "uses": "noop",
            "with": {
                "day": "{{ params.day }}",
                "invoice": "{{ run.event_variables.invoice }}",
                "trigger": "{{ run.trigger }}",
            },
        }
    ],
}
PLAIN = {"uses": "noop", "with": {"at": "{{ run.logical_date }}", "from": "{{ run.trigger }}"}}


def _schedule(stack: Stack, **fields: object) -> dict[str, str]:
    headers = {"Authorization": f"Bearer {stack.key}"}
    url = f"{stack.url}/api/v1/schedules"
    response = requests.post(url, json=fields, headers=headers, timeout=10)
    assert response.status_code == 201, response.text
    schedule: dict[str, str] = response.json()
    return schedule


def test_a_posted_payload_reaches_the_steps_and_a_run_that_succeeds_starts_another(
    stack: Stack, client: Client
) -> None:
    client.apply(ECHO)
    client.apply({"name": "after-echo", "steps": [{"key": "go_on", **PLAIN}]})
    _schedule(stack, workflow="after-echo", type="event", after_workflow="echo")
    schedule = _schedule(stack, workflow="echo", type="api", params={"day": "monday"})

    body = {"variables": {"day": "tuesday"}, "invoice": 17}
    response = requests.post(schedule["url"], json=body, timeout=10)  # without a key

    assert response.status_code == 201, response.text
    run = ended(client, response.json()["id"])
    assert run["steps"][0]["result"] == {"day": "tuesday", "invoice": 17, "trigger": "api"}
    assert run["variables"] == {"day": "tuesday"}
    assert run["event_variables"] == {"invoice": 17}
    following = eventually(lambda: client.runs(workflow="after-echo")["items"])[0]
    assert (following["trigger"], following["source_id"]) == ("event", run["id"])
    assert ended(client, following["id"])["steps"][0]["result"]["from"] == "event"


def test_an_interval_starts_runs_with_their_logical_date(stack: Stack, client: Client) -> None:
    client.apply({"name": "ticking", "steps": [{"key": "tick", **PLAIN}]})
    schedule = _schedule(stack, workflow="ticking", type="interval", every="1s")
    started = eventually(
        lambda: client.runs(workflow="ticking")["items"], until=lambda all: len(all) > 1
    )
    requests.delete(
        f"{stack.url}/api/v1/schedules/{schedule['id']}",
        headers={"Authorization": f"Bearer {stack.key}"},
        timeout=10,
    )

    run = ended(client, started[-1]["id"])

    result = run["steps"][0]["result"]
    assert result["from"] == "schedule"
    assert datetime.fromisoformat(result["at"]) == datetime.fromisoformat(run["logical_date"])
    late = datetime.fromisoformat(run["created_at"]) - datetime.fromisoformat(run["logical_date"])
    assert 0 <= late.total_seconds() < PROMPT
    assert datetime.fromisoformat(run["logical_date"]) <= datetime.now(UTC)
