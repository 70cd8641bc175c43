"""OpenDataDSL on real processes: a day's rates are loaded, fail, are stopped, and loaded again."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from sqlalchemy import Engine

from orchestrator.client import Client
from orchestrator.local.stack import Stack
from tests.contracts.adapters.opendatadsl import ADAPTER
from tests.e2e.contract_client import WITHIN, ContractClient
from tests.support.factories import eventually

BASE = "/api/process-exec"
LINE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z\[UTC\] (debug|info|warning|error) .+")


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
