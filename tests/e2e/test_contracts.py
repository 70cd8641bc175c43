"""One story over the adapters of all published APIs, on real processes."""

from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine

from orchestrator.client import Client
from orchestrator.local.stack import Stack
from orchestrator.states import RunState
from tests.contracts.adapters import ADAPTERS
from tests.e2e.contract_client import ContractClient
from tests.support.processes import ended, lines_in

BY_NAME = {adapter.name: adapter for adapter in ADAPTERS}


@pytest.fixture(params=BY_NAME)
def contract(request: pytest.FixtureRequest, stack: Stack, engine: Engine) -> ContractClient:
    """The API of each contract in turn."""
    return ContractClient(BY_NAME[request.param], stack, engine)


def _apply(client: Client, name: str, *uses: str, **params: str) -> str:
    """Register a chain of handlers, with defaults for its params."""
    steps = [{"key": f"s{number}", "uses": each} for number, each in enumerate(uses)]
    properties = {key: {"type": "string", "default": value} for key, value in params.items()}
    schema = {"type": "object", "properties": properties}
    client.apply({"name": name, "params": schema, "steps": steps})
    return name


def _steps(contract: ContractClient, run_id: str) -> list[str] | None:
    steps = contract.adapter.steps(contract, contract.tenant_id, run_id)
    return None if steps is None else list(steps.values())


def _words(contract: ContractClient, *states: str) -> list[str]:
    """The wire states of steps, without those that the contract does not show."""
    words = contract.adapter.step_states
    return [words[state] for state in states if state in words]


def test_a_run_is_submitted_and_succeeds(contract: ContractClient, client: Client) -> None:
    adapter, name = contract.adapter, _apply(client, f"two-{contract.adapter.name}", "noop", "noop")

    run_id = contract.submit(name)

    assert contract.final_state(run_id) == adapter.states[RunState.SUCCEEDED]
    assert _steps(contract, run_id) in (None, _words(contract, "succeeded", "succeeded"))
    page = adapter.page(contract, contract.tenant_id, limit=10, offset=0, workflow=name)
    assert run_id in adapter.ids_in(page)
    filtered = adapter.of_state(contract, contract.tenant_id, contract.state(run_id))
    assert filtered is None or run_id in adapter.ids_in(filtered)


@pytest.mark.parametrize("contract", ["mage", "solvexia", "virtuousai"], indirect=True)
def test_a_failed_run_is_retried_in_place_until_it_succeeds(
    contract: ContractClient, client: Client
) -> None:
    flaky = "tests.support.handlers.flaky"  # succeeds at the third attempt
    run_id = contract.submit(
        _apply(client, f"retry-{contract.adapter.name}", "noop", flaky, "noop")
    )

    for _ in range(2):
        assert contract.final_state(run_id) == contract.adapter.states[RunState.FAILED]
        assert _steps(contract, run_id) == _words(contract, "succeeded", "failed", "skipped")
        response: Any = contract.adapter.retry(contract, contract.tenant_id, run_id)
        assert response.status_code == 200, response.text

    assert contract.final_state(run_id) == contract.adapter.states[RunState.SUCCEEDED]
    assert _steps(contract, run_id) == _words(contract, *["succeeded"] * 3)


def test_a_running_run_is_cancelled(contract: ContractClient, client: Client, say: Path) -> None:
    adapter, tidy = contract.adapter, "tests.support.handlers.tidy"
    name = _apply(client, f"cancel-{adapter.name}", tidy, "noop", say=str(say))
    run_id = contract.submit(name)
    lines_in(say)
    assert contract.state(run_id) == adapter.states[RunState.RUNNING]

    response = adapter.cancel(contract, contract.tenant_id, run_id)
    if response is None:  # OpenDataDSL cannot cancel
        client.cancel(run_id)
    else:
        assert response.status_code == 200, response.text

    (run,) = client.runs(workflow=name)["items"]
    assert ended(client, run["id"])["state"] == "cancelled"
    assert contract.state(run_id) == adapter.states[RunState.CANCELLED]
    assert lines_in(say, lines=2)[1].startswith("cleaned up")
    if "cancelled" in adapter.step_states:
        assert _steps(contract, run_id) == _words(contract, "cancelled", "cancelled")
