"""OpenDataDSL on real processes: a day's rates are loaded, fail, are stopped, and loaded again."""

import json
import re
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml
from sqlalchemy import Engine

from orchestrator.client import Client
from orchestrator.local.stack import Stack
from tests.contracts.adapters.opendatadsl import ADAPTER
from tests.e2e.contract_client import WITHIN, ContractClient
from tests.support.factories import eventually

BASE = "/api/process-exec"
LINE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z\[UTC\] (debug|info|warning|error) .+")

PUBLISHED = [  # the fields of the published example that a run by hand has, in our order
    "_id", "service", "name", "environment", "trigger", "reason", "start", "end", "runAs",
    "status", "message", "phases", "loaderMessage", "data",
]  # fmt: skip
# The SDK's login at Microsoft, which its import prepares, needs the internet; a key does not.
SDK_PROGRAMME = """
import json, sys, time
import msal
msal.PublicClientApplication = lambda *args, **options: None
from odsl import sdk

odsl = sdk.ODSL()
odsl.url = sys.argv[1]
odsl.loginWithAPIKey("ops@acme.example", sys.argv[2])
odsl.update("process-exec", "private", {"name": "never-written"})
process = {"name": "#ECB: daily rates", "workflow": "#ECB_FX", "input": {"date": "2021-07-02"}}
odsl.update("process", "private", process)
odsl.update("process-exec", "private", {"name": process["name"]}, {"_reason": "by the SDK"})
which = {"name": process["name"], "reason": "by the SDK", "status": "in(success,failed,warning)"}
deadline = time.monotonic() + 60
while not (logs := odsl.list("process-exec", params={**which, "_limit": 1})):
    assert time.monotonic() < deadline
    time.sleep(0.2)
log = odsl.get("process-exec", "private", logs[0]["_id"])
print(json.dumps({
    "status": log["status"],
    "reason": log["reason"],
    "phases": [phase["name"] for phase in log["phases"]],
    "total": int(odsl.headers("process-exec", params=dict(which))["x-total-count"]),
    "process": odsl.get("process", None, process["name"])["name"],
}))
"""


class Sdk(ContractClient):
    """The requests of the published Python SDK: one source in every path, totals by header."""

    def __init__(self, stack: Stack, engine: Engine) -> None:
        headers = {"x-odsl-email": "ops@acme.example", "x-odsl-key": stack.key}
        super().__init__(ADAPTER, stack, engine, headers=headers)

    def trigger(self, name: str, reason: str, **body: Any) -> dict[str, Any]:
        """Post to the bare base."""
        return self.call("POST", BASE, {"name": name, "body": body}, _reason=reason)

    def count(self, **query: str) -> int:
        """The number of executions, from the header of a page of one."""
        response = self.get(f"{BASE}/v1/private", query_string={**query, "_limit": "1"})
        return self.adapter.total_in(response) or 0

    def ended(self, made: dict[str, Any], status: str) -> dict[str, Any]:
        """The log, once there is one of its id in this status."""
        eventually(lambda: self.count(_id=made["_id"], status=status), within=WITHIN)
        return self.call("GET", f"{BASE}/v1/private/{made['_id']}")


@pytest.fixture
def sdk(stack: Stack, engine: Engine) -> Sdk:
    """A client of the stack's API."""
    return Sdk(stack, engine)


@pytest.fixture
def ecb_fx(client: Client) -> str:
    """The name of the registered process."""
    client.apply(yaml.safe_load(Path("examples/ecb_fx/workflow.yaml").read_text()))
    return "ECB_FX"


def _phases(log: dict[str, Any], name: str) -> list[Any]:
    return [phase[name] for phase in log["phases"]]


def test_a_day_is_loaded(sdk: Sdk, ecb_fx: str) -> None:
    before = sdk.count(name=ecb_fx, status="success")

    made = sdk.trigger(ecb_fx, "first load", date="2021-07-01")
    log = sdk.ended(made, "success")

    assert made["status"] == "triggered"
    assert (log["message"], log["reason"]) == ("Completed Successfully", "first load")
    assert _phases(log, "name") == ["EXTRACT", "TRANSFORM", "SEND", "LOAD"]
    assert set(_phases(log, "status")) == {"success"}
    assert log["phases"][0]["message"] == "Completed EXTRACT"
    assert log["phases"][0]["start"] <= log["phases"][-1]["end"] <= log["end"]
    lines = [line for phase in log["phases"] for line in phase["log"]]
    assert lines
    assert all(LINE.fullmatch(line) for line in lines)
    assert len(log["data"]["series"]["2021-07-01"]) >= 32
    loaded = log["loaderMessage"]
    assert re.fullmatch(r"Updated \d+ series for 2021-07-01", loaded)
    assert sdk.count(**{"_id": made["_id"], "loaderMessage": loaded}) == 1
    assert sdk.count(name=ecb_fx, status="success") == before + 1
    series = log["data"]["series"]["2021-07-01"][0]
    assert sdk.count(**{"_id": made["_id"], "data.series.2021-07-01": series}) == 1


def test_a_day_without_rates_fails_and_another_one_is_triggered_instead(
    sdk: Sdk, ecb_fx: str
) -> None:
    log = sdk.ended(sdk.trigger(ecb_fx, "a Sunday", date="2021-07-04"), "failed")

    assert _phases(log, "status") == ["failed"]
    assert log["message"].startswith("EXTRACT failed: ")
    assert "no rates on Sunday 2021-07-04" in log["phases"][0]["message"]

    again = sdk.ended(sdk.trigger(ecb_fx, "the day before", date="2021-07-02"), "success")
    assert set(_phases(again, "status")) == {"success"}


def test_a_cancelled_execution_has_failed(sdk: Sdk, client: Client, say: Path) -> None:
    client.apply(
        {"name": "long", "steps": [{"key": "LOAD", "uses": "tests.support.handlers.tidy"}]}
    )
    made = sdk.trigger("long", "to be stopped", say=str(say))
    begun = {"_id": made["_id"], "phases.status": "running"}
    eventually(lambda: sdk.count(**begun), within=WITHIN)

    client.cancel(made["_id"], reason="not needed any more")  # this API cannot cancel
    log = sdk.ended(made, "failed")

    assert log["message"] == "Cancelled: not needed any more"
    assert _phases(log, "status") == ["failed"]


@pytest.mark.row("every address of the published document, in its order")
def test_the_published_calls_in_their_order(stack: Stack, ecb_fx: str) -> None:
    url, key = f"{stack.url}{BASE}", {"Authorization": f"Bearer {stack.key}"}

    def get(path: str) -> Any:
        answer = requests.get(f"{url}{path}", headers=key, timeout=WITHIN)
        assert answer.status_code == 200, answer.headers
        return answer.json()

    assert get("")["service"] == "process-exec"
    process = {"name": "ECB_FX", "input": {"date": "2021-07-02"}}  # what is loaded by default
    requests.post(f"{stack.url}/api/process/v1", headers=key, json=process, timeout=WITHIN)
    made = []
    for body in ({"name": "ECB_FX"}, {"name": "ECB_FX", "body": {"date": "2021-07-01"}}):
        answer = requests.post(f"{url}/v1", headers=key, json=body, timeout=WITHIN)
        assert answer.status_code == 200, answer.headers
        assert answer.json()["status"] == "triggered"
        made.append(answer.json()["_id"])
    final = "in(success,failed,warning)"
    for each in made:
        eventually(partial(get, f"/v1?_id={each}&status={final}"), within=WITHIN)

    assert {*made} <= {each["_id"] for each in get("/v1")}
    assert {*made} <= {each["_id"] for each in get("/v1?name=ECB_FX")}
    log = get(f"/v1/private/{made[1]}")
    day = log["start"][:10]
    listed = get(f"/v1?name=ECB_FX&start=range({day},{log['end'][:10]})")
    assert made[1] in {each["_id"] for each in listed}
    starts = [each["start"] for each in listed]
    assert starts == sorted(starts, reverse=True)
    failed = get("/v1?status=failed&start=range(2021-07-19,9999-12-31)")
    assert {each["status"] for each in failed} <= {"failed"}
    assert list(log) == PUBLISHED
    assert list(log["phases"][0]) == ["name", "start", "end", "status", "message", "log"]


@pytest.mark.row(
    "the published Python SDK (PyPI `odsl`): trigger, list, count, get, write a process"
)
def test_the_published_sdk(stack: Stack, ecb_fx: str, tmp_path: Path) -> None:
    command = [sys.executable, "-c", SDK_PROGRAMME, f"{stack.url}/api/", stack.key]
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout.splitlines()[-1])

    assert (seen["status"], seen["reason"]) == ("success", "by the SDK")
    assert seen["phases"] == ["EXTRACT", "TRANSFORM", "SEND", "LOAD"]
    assert seen["total"] >= 1
    assert seen["process"] == "#ECB: daily rates"
    assert "ODSL error 404: [1004] No process with name never-written" in done.stdout
