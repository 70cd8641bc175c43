"""Rights: every route of every API needs what `access.permissions` says, and nothing less."""

from collections.abc import Callable, Iterator
from typing import Any
from uuid import UUID

import pytest
from flask.testing import FlaskClient
from werkzeug.routing import Rule
from werkzeug.test import TestResponse

from api.contracts import CONTRACTS
from api.toolkit.blueprints import Blueprint, Need
from orchestrator.access.authentication import Principal
from orchestrator.access.permissions import READ_SUFFIX, RIGHTS
from orchestrator.models import Role
from tests.support.api_keys import a_key, with_key

Reader = Callable[..., FlaskClient]
NOBODY = "01890000-0000-7000-8000-000000000000"
# Routes without a key, or whose token in the path is one.
OPEN = {endpoint for contract in CONTRACTS for endpoint in contract.open}
OPEN |= {"schedules.trigger_by_token"}
# The route of the native API that shows or does the same; its rights are needed at least.
SAME = {
    "mage.list_runs": "runs.page",
    "mage.list_schedule_runs": "runs.page",
    "mage.start_run": "schedules.trigger",
    "mage.show_run": "runs.show",
    "mage.put_run": "runs.cancel",
    "mage.delete_run": "runs.cancel",
    "mage.list_blocks": "runs.steps",
    "mage.list_run_blocks": "runs.steps",
    "mage.list_schedule": "schedules.page",
    "mage.list_pipeline_schedule": "schedules.page",
    "mage.make_schedule": "schedules.create",
    "mage.show_schedule": "schedules.show",
    "mage.put_schedule": "schedules.change",
    "mage.delete_schedule": "schedules.delete",
    "mage.list_pipelines": "workflows.page",
    "mage.show_pipeline": "workflows.show",
    "mage.put_pipeline": "runs.cancel_many workflows.show",
    "mindzie.submit": "runs.submit",
    "mindzie.page": "runs.page",
    "mindzie.show": "runs.show",
    "mindzie.cancel": "runs.cancel",
    "mindzie.retry": "runs.retry",
    "mindzie.results": "runs.show artifacts.page artifacts.download",
    "mindzie.log": "runs.show outputs.log",
    "mindzie.queue_notebook": "runs.submit",
    "mindzie.queue_investigation": "runs.submit",
    "mindzie.cancel_execution": "runs.cancel",
    "mindzie.show_execution": "runs.show",
    "mindzie.list_history": "runs.page",
    "mindzie.status": "system.status",
    "mindzie.queue": "runs.page system.queue",
    "mindzie.ping": "runs.page",
    "opendatadsl.build_of_executions": "runs.page",
    "opendatadsl.page": "runs.page",
    "opendatadsl.private_page": "runs.page",
    "opendatadsl.public_page": "runs.page",
    "opendatadsl.show": "runs.show",
    "opendatadsl.private_show": "runs.show",
    "opendatadsl.trigger": "runs.submit",
    "opendatadsl.trigger_at_root": "runs.submit",
    "opendatadsl.private_trigger": "runs.submit",
    "opendatadsl.build_of_processes": "workflows.page",
    "opendatadsl.processes": "workflows.page",
    "opendatadsl.private_processes": "workflows.page",
    "opendatadsl.public_processes": "workflows.page",
    "opendatadsl.process": "workflows.show",
    "opendatadsl.private_process": "workflows.show",
    "opendatadsl.version": "workflows.versions",
    "opendatadsl.private_version": "workflows.versions",
    "opendatadsl.versions": "workflows.versions",
    "opendatadsl.private_versions": "workflows.versions",
    "opendatadsl.write": "workflows.register",
    "opendatadsl.write_at_root": "workflows.register",
    "opendatadsl.private_write": "workflows.register",
    "opendatadsl.rename": "workflows.register",
    "opendatadsl.private_rename": "workflows.register",
    "opendatadsl.tag": "workflows.register",
    "opendatadsl.private_tag": "workflows.register",
    "opendatadsl.delete": "workflows.register",
    "solvexia.list_processes": "workflows.page",
    "solvexia.show_process": "workflows.show",
    "solvexia.list_steps": "workflows.show",
    "solvexia.create_run": "runs.submit",
    "solvexia.list_runs": "runs.page",
    "solvexia.show_run": "runs.show",
    "solvexia.show_status": "runs.show",
    "solvexia.start": "runs.start",
    "solvexia.cancel": "runs.cancel",
    "solvexia.command": "runs.start",
    "solvexia.show_steps": "runs.steps",
    "solvexia.show_step_status": "runs.step",
    "solvexia.restart": "runs.restart",
    "solvexia.show_step": "runs.step",
    "solvexia.list_properties": "runs.show",
    "solvexia.show_property": "runs.show",
    "solvexia.change_property": "runs.change",
    "solvexia.download": "artifacts.download",
    "solvexia.show_file": "artifacts.page",
    "solvexia.upload": "artifacts.page",
    "solvexia.list_logs": "events.page",
    "virtuousai.automations": "workflows.page",
    "virtuousai.automation": "workflows.show",
    "virtuousai.make": "workflows.register",
    "virtuousai.change": "workflows.register",
    "virtuousai.list_tokens": "keys.page",
    "virtuousai.make_token": "keys.create",
    "virtuousai.show_token": "keys.show",
    "virtuousai.revoke_token": "keys.revoke",
    "virtuousai.trigger": "runs.submit",
    "virtuousai.page": "runs.page",
    "virtuousai.show": "runs.show",
    "virtuousai.steps": "runs.steps",
    "virtuousai.cancel": "runs.cancel",
    "virtuousai.retry": "runs.retry",
    "virtuousai.follow": "runs.history",
    "virtuousai.history": "events.page",
}


@pytest.fixture
def keyed(client: FlaskClient, no_keys_left: None) -> Reader:
    """The API with a key of a role and scopes, made once each."""
    made: dict[Any, FlaskClient] = {}

    def with_rights(role: str = "admin", *scopes: str) -> FlaskClient:
        if (role, scopes) not in made:
            key = a_key(client, role, **({"scopes": list(scopes)} if scopes else {}))
            made[role, scopes] = with_key(client, key["key"])
        return made[role, scopes]

    return with_rights


def _rules(client: FlaskClient) -> Iterator[tuple[Rule, str]]:
    """The routes of all six documents with their methods."""
    for rule in client.application.url_map.iter_rules():
        blueprint = client.application.blueprints.get(rule.endpoint.partition(".")[0])
        if isinstance(blueprint, Blueprint) and rule.endpoint not in OPEN:
            for method in sorted((rule.methods or set()) - {"HEAD", "OPTIONS"}):
                yield rule, method


def _needs(client: FlaskClient, endpoint: str, method: str) -> list[Need]:
    name, _, view = endpoint.partition(".")
    blueprint: Any = client.application.blueprints[name]
    needs: list[Need] = blueprint.needs[view, method]
    return needs


def _keys(needs: list[Need]) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Roles and scopes around what the needs take: enough, too few, and none."""
    scopes = tuple(dict.fromkeys(RIGHTS[need].scope for need in needs))
    for role in Role:
        yield role, ()
        yield role, scopes
    yield "admin", tuple(scope.removesuffix(READ_SUFFIX) for scope in scopes)
    yield "admin", tuple(f"{scope.removesuffix(READ_SUFFIX)}{READ_SUFFIX}" for scope in scopes)
    for left in scopes if scopes[1:] else ():
        yield "admin", tuple(scope for scope in scopes if scope != left)
    others = ("runs:read", "workflows:read", "outputs", "artifacts", "system", "keys")
    yield "admin", tuple(scope for scope in others if scope.partition(":")[0] not in str(needs))


def _may(role: str, scopes: tuple[str, ...], needs: list[Need]) -> bool:
    caller = Principal(
        tenant_id=UUID(NOBODY), key_id=UUID(NOBODY), name="", role=Role(role), scopes=scopes or None
    )
    return all(caller.may(*need) for need in needs)


def _ask(caller: FlaskClient, rule: Rule, method: str) -> bool:
    """Whether the route lets the caller in; nothing is there that it asks for."""
    values: dict[str, Any] = dict.fromkeys(rule.arguments, NOBODY)
    address = caller.application.url_map.bind("x").build(rule.endpoint, values, method=method)
    reply = caller.open(address, method=method, json=None if method == "GET" else {})
    assert reply.status_code < 500, (address, reply.text)
    return not _is_forbidden(reply)


def _is_forbidden(reply: TestResponse) -> bool:
    error = (reply.get_json(silent=True) or {}) if reply.is_json else {}
    inner = error.get("error") if isinstance(error, dict) else None
    return reply.status_code == 403 or (isinstance(inner, dict) and inner.get("code") == 403)


def test_every_route_needs_the_role_and_the_scopes_of_the_table(
    client: FlaskClient, keyed: Reader
) -> None:
    wrong, count = [], 0
    for rule, method in _rules(client):
        needs = _needs(client, rule.endpoint, method)
        for role, scopes in _keys(needs):
            count += 1
            if _ask(keyed(role, *scopes), rule, method) != _may(role, scopes, needs):
                wrong.append((rule.endpoint, method, role, scopes))

    assert wrong == []
    assert count > 1000


def test_a_contract_needs_the_rights_of_the_native_route_that_does_the_same(
    client: FlaskClient,
) -> None:
    rules = {rule.endpoint: (rule, method) for rule, method in _rules(client)}
    contracts = {contract.blueprint.name for contract in CONTRACTS}
    missing = {
        endpoint: left
        for endpoint, same in SAME.items()
        for left in [
            {need for each in same.split() for need in _needs(client, each, rules[each][1])}
            - set(_needs(client, endpoint, rules[endpoint][1]))
        ]
        if left
    }

    assert {each for each in rules if each.partition(".")[0] in contracts} == SAME.keys()
    assert missing == {"solvexia.upload": {("artifacts", "read")}}  # changes include it
