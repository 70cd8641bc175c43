"""A process from its creation to its result, by SolveXia's API alone, as its clients speak it."""

from pathlib import Path
from typing import Any

import pytest
import requests

from orchestrator.client import Client
from orchestrator.local.stack import Stack
from tests.support.factories import eventually
from tests.support.processes import said

WITHIN = 30  # seconds that anything may take on a machine with other things to do


class Sdk:
    """What the published client does: a token by form, no bodies, and a header that it leaks."""

    def __init__(self, stack: Stack, client: Client) -> None:
        made = client.create_key(
            name="sdk", role="operator", kind="oauth_client", user="acme.ana.ruiz"
        )
        asked = {name: made[name] for name in ("client_id", "client_secret")}
        asked |= {"grant_type": "client_credentials", "scope": "process"}
        token = requests.post(f"{stack.url}/oauth/token", data=asked, timeout=WITHIN).json()
        assert token["expires_in"] > 0
        self.base = f"{stack.url}/api/v1"
        self.headers = {
            "Authorization": f"Bearer {token['access_token']}",
            "Content-Type": "application/octet-stream",
        }

    def call(self, method: str, path: str, **more: Any) -> Any:
        """The answer; anything but 200 is fatal, with the message of the error."""
        answer = requests.request(
            method, f"{self.base}/{path}", headers=self.headers, timeout=WITHIN, **more
        )
        if answer.status_code != 200:
            raise RuntimeError(answer.json()["message"])
        return answer.json() if answer.headers["Content-Type"] == "application/json" else answer

    def create(self, name: str) -> str:
        """A run of the process of this name that has not started."""
        (process,) = self.call("GET", f"processes?name={name}")
        run = self.call("POST", f"processes/{process['id']}/processruns")
        assert self.status(run["id"]) == "NotStarted"
        return str(run["id"])

    def set(self, run: str, name: str, value: Any) -> None:
        """Set a property of the run's first step."""
        step = self.steps(run)[0]["id"]
        properties = self.call("GET", f"steps/{step}/properties")
        (wanted,) = [each for each in properties if each["name"] == name]
        path = f"steps/{step}/properties/{wanted['id']}"
        assert self.call("POST", path, json={**wanted, "value": value})["value"] == value

    def start(self, run: str) -> None:
        assert self.call("POST", f"processruns/{run}/start")["status"] == "Scheduled"

    def status(self, run: str) -> str:
        return str(self.call("GET", f"processRuns/{run}/runstatus")["status"])

    def ended(self, run: str) -> dict[str, Any]:
        """Poll as clients do, with the duration in the loop."""

        def look() -> dict[str, Any]:
            found: dict[str, Any] = self.call("GET", f"processRuns/{run}/runstatus")
            if found["status"] == "Running":
                assert found["runDurationInSeconds"] < WITHIN
            return found

        over = ("Finished", "Cancelled", "TimedOut")
        return eventually(look, within=WITHIN, until=lambda found: found["status"] in over)

    def steps(self, run: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.call("GET", f"processruns/{run}/steps")
        return found

    def step(self, run: str, step: str) -> dict[str, Any]:
        found: dict[str, Any] = self.call("GET", f"processruns/{run}/steps/{step}/runstatus")
        return found


@pytest.fixture
def sdk(stack: Stack, client: Client) -> Sdk:
    return Sdk(stack, client)


def _process(client: Client, name: str, *uses: str, params: tuple[str, ...] = ()) -> None:
    properties = {each: {"type": "string"} for each in params}
    steps = [{"key": each, "uses": f"tests.support.handlers.{each}"} for each in uses]
    schema = {"type": "object", "properties": properties, "required": list(params)}
    client.apply({"name": name, "params": schema, "steps": steps})


def test_a_process_runs_and_leaves_a_file(client: Client, sdk: Sdk) -> None:
    _process(client, "solvexia-report", "make_large")
    run = sdk.create("solvexia-report")

    sdk.start(run)
    ended = sdk.ended(run)
    (step,) = sdk.steps(run)
    told = sdk.step(run, step["id"])
    (left,) = sdk.call("GET", f"steps/{step['id']}/properties")
    known = sdk.call("GET", f"files/{left['file']}/metadata")
    content = requests.get(known["url"], headers=sdk.headers, timeout=WITHIN).content

    assert (ended["status"], told["status"]) == ("Finished", "Success")
    assert ended["dateFinished"] >= ended["dateStarted"]
    assert (known["fileExtension"], known["sizeInBytes"]) == ("json", len(content))


def test_a_process_that_failed_is_restarted_from_its_step(client: Client, sdk: Sdk) -> None:
    _process(client, "solvexia-flaky", "flaky")
    run = sdk.create("solvexia-flaky")
    sdk.start(run)
    statuses = []
    for _ in range(3):
        assert sdk.ended(run)["status"] == "Finished"
        (step,) = sdk.steps(run)
        told = sdk.step(run, step["id"])
        statuses.append((told["status"], told["completionMessage"]))
        if told["status"] == "Failed":
            again = sdk.call("POST", f"processruns/{run}/steps/{step['id']}/restartfromhere")
            assert (again["id"], again["status"]) == (step["id"], "Running")

    assert statuses == [("Failed", "not yet"), ("Failed", "not yet"), ("Success", "")]
    logs = [each for each in sdk.call("GET", "logs") if f"{run} " in each["message"]]
    assert logs[0]["message"] == f"Process run {run} (solvexia-flaky) finished"
    assert logs[0]["userName"] == "acme.ana.ruiz"
    with pytest.raises(RuntimeError, match=f"Process run {run} has already finished"):
        sdk.call("POST", f"processruns/{run}/cancel")


def test_a_process_that_runs_is_cancelled(client: Client, sdk: Sdk, say: Path) -> None:
    _process(client, "solvexia-tidy", "tidy", params=("say",))
    run = sdk.create("solvexia-tidy")
    with pytest.raises(RuntimeError, match="'say' is a required property"):
        sdk.start(run)
    sdk.set(run, "say", str(say))
    sdk.start(run)
    said(say, within=WITHIN)
    assert sdk.status(run) == "Running"

    command = {"request": "ProcessRun_CancelRq", "processRunId": run}
    first = sdk.call("POST", "requests", json=command)
    over = eventually(
        lambda: sdk.call("GET", f"processruns/{run}/runstatus"),
        within=WITHIN,
        until=lambda found: found["dateFinished"] is not None,
    )

    assert (first["status"], over["status"]) == ("Cancelled", "Cancelled")
    assert said(say, 2)[1].startswith("cleaned up")
    assert sdk.step(run, sdk.steps(run)[0]["id"])["status"] == "Cancelled"
