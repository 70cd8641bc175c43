"""SolveXia on real processes: a process from its creation to its result, as its clients do it."""

import re
from pathlib import Path
from typing import Any

import pytest
import requests
from sqlalchemy import Engine

from orchestrator.client import Client
from orchestrator.local.stack import Stack
from tests.contracts.adapters.solvexia import ADAPTER
from tests.e2e.contract_client import WITHIN, ContractClient
from tests.support.factories import eventually
from tests.support.processes import lines_in

RUN_FIELDS = [
    "id", "name", "alertEmailAddress", "alertSMS", "description", "lastModifiedBy",
    "dateModified", "dateCreated", "process",
]  # fmt: skip


class Sdk(ContractClient):
    """The requests of the published client: a token by form, no bodies, and one odd header."""

    def __init__(self, stack: Stack, engine: Engine, client: Client) -> None:
        key = client.create_key(
            name="sdk", role="operator", kind="oauth_client", user="acme.ana.ruiz"
        )
        form = {name: key[name] for name in ("client_id", "client_secret")}
        form |= {"grant_type": "client_credentials", "scope": "process"}
        token = requests.post(f"{stack.url}/oauth/token", data=form, timeout=WITHIN).json()
        assert token["expires_in"] > 0
        headers = {
            "Authorization": f"Bearer {token['access_token']}",
            "Content-Type": "application/octet-stream",
        }
        super().__init__(ADAPTER, stack, engine, headers=headers)

    def call(self, method: str, path: str, body: Any = None, **query: Any) -> Any:
        """The JSON of the response; raises RuntimeError with the message of an error."""
        response = self.open(f"/api/v1/{path}", method=method, json=body, query_string=query)
        if response.status_code != 200:
            raise RuntimeError(response.json["message"])
        return response.json

    def create(self, name: str) -> str:
        """A run of the process of this name that has not started."""
        (process,) = self.call("GET", "processes", name=name)
        run = self.call("POST", f"processes/{process['id']}/processruns")
        assert self.state(run["id"]) == "NotStarted"
        return str(run["id"])

    def set(self, run: str, name: str, value: Any) -> None:
        """Set a property of the run's first step."""
        step = self.steps(run)[0]["id"]
        properties = self.call("GET", f"steps/{step}/properties")
        (current,) = [each for each in properties if each["name"] == name]
        path = f"steps/{step}/properties/{current['id']}"
        assert self.call("POST", path, {**current, "value": value})["value"] == value

    def start(self, run: str) -> None:
        assert self.call("POST", f"processruns/{run}/start")["status"] == "Scheduled"

    def ended(self, run: str) -> dict[str, Any]:
        """Poll as clients do, with the duration in the loop."""

        def poll() -> dict[str, Any]:
            status: dict[str, Any] = self.call("GET", f"processRuns/{run}/runstatus")
            if status["status"] == "Running":
                assert status["runDurationInSeconds"] < WITHIN
            return status

        final = ("Finished", "Cancelled", "TimedOut")
        return eventually(poll, within=WITHIN, until=lambda status: status["status"] in final)

    def steps(self, run: str) -> list[dict[str, Any]]:
        return self.call("GET", f"processruns/{run}/steps")

    def step(self, run: str, step: str) -> dict[str, Any]:
        return self.call("GET", f"processruns/{run}/steps/{step}/runstatus")


@pytest.fixture
def sdk(stack: Stack, engine: Engine, client: Client) -> Sdk:
    return Sdk(stack, engine, client)


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
    status = sdk.step(run, step["id"])
    (result,) = sdk.call("GET", f"steps/{step['id']}/properties")
    metadata = sdk.call("GET", f"files/{result['file']}/metadata")
    content = requests.get(metadata["url"], headers=sdk.headers, timeout=WITHIN).content

    assert (ended["status"], status["status"]) == ("Finished", "Success")
    assert ended["dateFinished"] >= ended["dateStarted"]
    assert (metadata["fileExtension"], metadata["sizeInBytes"]) == ("json", len(content))


def test_a_process_that_failed_is_restarted_from_its_step(client: Client, sdk: Sdk) -> None:
    _process(client, "solvexia-flaky", "flaky")
    run = sdk.create("solvexia-flaky")
    sdk.start(run)
    statuses = []
    for _ in range(3):
        assert sdk.ended(run)["status"] == "Finished"
        (step,) = sdk.steps(run)
        status = sdk.step(run, step["id"])
        statuses.append((status["status"], status["completionMessage"]))
        if status["status"] == "Failed":
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
    lines_in(say, within=WITHIN)
    assert sdk.state(run) == "Running"

    command = {"request": "ProcessRun_CancelRq", "processRunId": run}
    first = sdk.call("POST", "requests", command)
    final = eventually(
        lambda: sdk.call("GET", f"processruns/{run}/runstatus"),
        within=WITHIN,
        until=lambda status: status["dateFinished"] is not None,
    )

    assert (first["status"], final["status"]) == ("Cancelled", "Cancelled")
    assert lines_in(say, 2)[1].startswith("cleaned up")
    assert sdk.step(run, sdk.steps(run)[0]["id"])["status"] == "Cancelled"


@pytest.mark.row("every curl line of the published document, in its order, with the same fields")
def test_the_published_calls_in_their_order(client: Client, sdk: Sdk, say: Path) -> None:
    _process(client, "processapitest", "tidy", "flaky", params=("say",))
    token = {"Authorization": sdk.headers["Authorization"]}

    def curl(path: str, method: str = "GET", **json: str) -> Any:
        answer = requests.request(
            method, f"{sdk.url}/api/v1/{path}", headers=token, json=json or None, timeout=WITHIN
        )
        assert answer.status_code == 200, answer.text
        return answer.json()

    runs = [sdk.create("processapitest") for _ in range(2)]
    for number, run in enumerate(runs, start=1):
        shown = curl(f"processruns/{run}")
        assert list(shown) == RUN_FIELDS
        assert shown["name"] == f"processapitest : run #{number}"
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{7}", shown["dateCreated"])
        sdk.set(run, "say", str(say))
    by_path, by_command = runs
    named = {"processRunId": by_command}

    started = curl(f"processruns/{by_path}/start", "POST")
    commanded = curl("requests", "POST", request="ProcessRun_StartRq", **named)
    lines_in(say, 2, within=WITHIN)
    stopping = curl(f"processruns/{by_path}/cancel", "POST")
    stopped = curl("requests", "POST", request="ProcessRun_CancelRq", **named)
    for status, word in (
        (started, "Scheduled"),
        (commanded, "Scheduled"),
        (stopping, "Cancelled"),
        (stopped, "Cancelled"),
    ):
        assert {"id", "dateStarted", "dateFinished", "runDurationInSeconds"} <= set(status)
        assert status["status"] == word
    assert started["dateStarted"] is started["runDurationInSeconds"] is None
    assert isinstance(stopping["runDurationInSec"], int)

    ended = sdk.ended(by_path)
    eventually(lambda: curl(f"processRuns/{by_path}/runstatus")["dateFinished"], within=WITHIN)
    steps = curl(f"processruns/{by_path}/steps")
    assert [(each["isEnabled"], each["stepOrder"]) for each in steps] == [
        (True, "1.1"),
        (True, "1.2"),
    ]
    alias = steps[0]["id"].replace("ds-", "as-")
    path = f"processruns/{by_path}/steps/{alias}"
    status = curl(f"{path}/runstatus")
    assert (status["id"], status["status"]) == (alias, "Cancelled")

    again = curl(f"{path}/restartfromhere", "POST")
    assert (again["id"], again["status"], again["dateFinished"]) == (alias, "Running", None)
    assert again["dateStarted"] != status["dateStarted"]
    assert again["completionMessage"] == "step is currently running"
    assert curl(f"{path}/runstatus")["dateStarted"] == again["dateStarted"]
    restarted = curl(f"processruns/{by_path}/runstatus")
    assert (restarted["status"], restarted["dateFinished"]) == ("Running", None)
    assert restarted["dateStarted"] == ended["dateStarted"]
    lines_in(say, 5, within=WITHIN)
    curl(f"processruns/{by_path}/cancel", "POST")
