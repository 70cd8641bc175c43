"""VirtuousAI's automations: create, list and run."""

from typing import Any
from uuid import UUID

import pytest
from flask.testing import FlaskClient

from orchestrator import runs
from orchestrator.db.database import Database
from tests.contracts.adapters.virtuousai import ADAPTER, AUTOMATIONS, RUNS, body_of
from tests.contracts.virtuousai.helpers import NOBODY, mistake_of
from tests.support.factories import a_run, a_spec

CONFIG = {
    "params": {"type": "object", "properties": {"day": {"type": "integer"}}},
    "steps": [{"key": "load", "uses": "noop"}],
}


def test_an_automation_is_made_shown_run_and_made_anew(client: FlaskClient) -> None:
    body = {
        "name": "Invoice Export!", "config": CONFIG, "description": "of a day",
        "orchestratorType": "local", "triggerType": "webhook", "templateId": "t1", "more": 1,
    }  # fmt: skip
    created = body_of(client.post(AUTOMATIONS, json=body))
    run = body_of(client.post(f"{AUTOMATIONS}/{created['id']}/runs", json={"input": {"day": 3}}))
    shown = body_of(client.get(f"{AUTOMATIONS}/{created['id']}"))
    changed = body | {"config": CONFIG | {"priority": 8}}
    next_one = body_of(client.put(f"{AUTOMATIONS}/{created['id']}", json=changed))

    assert {name: created[name] for name in body if name not in ("config", "more")} == {
        name: body[name] for name in body if name not in ("config", "more")
    }
    assert created["config"] == shown["config"] == CONFIG
    assert created["latestRun"] is None
    assert (run["automationId"], run["versionNumber"]) == (created["id"], 1)
    assert (run["orchestratorType"], run["triggerSourceType"]) == ("local", "api_key")
    assert shown["latestRun"] == {
        "id": run["id"], "status": "pending", "startedAt": None, "completedAt": None,
        "versionNumber": 1,
    }  # fmt: skip
    assert next_one["id"] == created["id"]
    assert next_one["versionsSummary"] == {"count": 2, "activeCount": 1, "hasDraft": False}


@pytest.mark.row("VirtuousAI GET automations: each once while others are made")
def test_each_automation_is_on_one_page_while_others_are_made(
    client: FlaskClient, database: Database
) -> None:
    for number in range(5):
        a_run(database, a_spec(f"made-{number}"))
    first = body_of(client.get(AUTOMATIONS))
    listed: list[dict[str, Any]] = []
    for offset in range(0, first["total"], 2):
        listed += body_of(client.get(f"{AUTOMATIONS}?limit=2&offset={offset}"))["items"]
        a_run(database, a_spec(f"late-{offset}"))

    assert listed == first["items"]


@pytest.mark.row("VirtuousAI GET automations: status, limit, offset")
def test_automations_are_listed_newest_first_by_status(
    client: FlaskClient, database: Database
) -> None:
    for name in "abc":
        a_run(database, a_spec(name))

    page = body_of(client.get(f"{AUTOMATIONS}?limit=2&status=active"))
    rest = body_of(client.get(f"{AUTOMATIONS}?limit=2&offset=2"))

    assert [each["name"] for each in (*page["items"], *rest["items"])] == ["c", "b", "a"]
    assert page["total"] == rest["total"] == 3
    assert page["items"][0]["config"] == {"steps": [{"key": "s1", "uses": "noop"}]}
    for status in ("draft", "archived"):
        page = body_of(client.get(AUTOMATIONS, query_string={"status": status}))
        assert page == {"items": [], "total": 0}


WRONG_AUTOMATIONS: list[tuple[Any, list[Any], str]] = [
    ({"config": CONFIG}, ["body", "name"], "missing"),
    ({"name": "n"}, ["body", "config"], "missing"),
    ({"name": "", "config": CONFIG}, ["body", "name"], "string_too_short"),
    ({"name": "n" * 256, "config": CONFIG}, ["body", "name"], "string_too_long"),
    ({"name": 1, "config": CONFIG}, ["body", "name"], "string_type"),
    ({"name": "n", "config": []}, ["body", "config"], "dict_type"),
    ({"name": "n", "config": {}}, ["body", "config"], "value_error"),
    (
        {"name": "n", "config": {"steps": [{"key": "a"}]}},
        ["body", "config", "steps", 0],
        "value_error",
    ),
    (
        {"name": "n", "config": CONFIG, "orchestratorType": "x"},
        ["body", "orchestratorType"],
        "enum",
    ),
    ({"name": "n", "config": CONFIG, "triggerType": "x"}, ["body", "triggerType"], "enum"),
]


def test_a_wrong_automation_says_what_is_wrong_and_nothing_is_made(client: FlaskClient) -> None:
    for body, *wrong in WRONG_AUTOMATIONS:
        assert list(mistake_of(client, "POST", AUTOMATIONS, json=body)) == wrong, body

    assert body_of(client.get(AUTOMATIONS))["total"] == 0


def test_two_names_that_would_be_one_workflow_are_a_conflict(client: FlaskClient) -> None:
    first = {"name": "Invoice Export", "config": CONFIG}
    created = body_of(client.post(AUTOMATIONS, json=first))

    second = client.post(AUTOMATIONS, json={"name": "invoice: export", "config": CONFIG})

    assert ADAPTER.refusal(second) == 409
    shown = body_of(client.get(f"{AUTOMATIONS}/{created['id']}"))
    assert (shown["name"], shown["versionsSummary"]["count"]) == ("Invoice Export", 1)
    assert "choose another" in second.text


@pytest.mark.row("VirtuousAI POST automations: a name that exists is a conflict")
def test_a_name_that_exists_is_a_conflict_and_changes_nothing(client: FlaskClient) -> None:
    first = {"name": "Invoice Export", "config": CONFIG, "description": "of a day"}
    created = body_of(client.post(AUTOMATIONS, json=first))
    others = (
        first,
        first | {"config": {"steps": [{"key": "drop", "uses": "noop"}]}},
        first | {"description": "of a month"},
        {"name": "invoice-export", "config": CONFIG},
    )

    answers = [client.post(AUTOMATIONS, json=other) for other in others]

    assert [ADAPTER.refusal(answer) for answer in answers] == [409] * len(others)
    assert f"PUT {AUTOMATIONS}/{created['id']} makes its next version" in answers[0].text
    assert body_of(client.get(f"{AUTOMATIONS}/{created['id']}")) == created


@pytest.mark.row(
    "VirtuousAI PUT automations/{id}: the next version",
    otherwise="because the published document has no call for it",
)
def test_an_automation_is_changed_by_its_next_version(client: FlaskClient) -> None:
    created = body_of(client.post(AUTOMATIONS, json={"name": "Export!", "config": CONFIG}))
    path = f"{AUTOMATIONS}/{created['id']}"
    config = {"steps": [{"key": "drop", "uses": "noop"}]}

    changed = body_of(client.put(path, json={"config": config, "triggerType": "webhook"}))

    assert changed["versionsSummary"]["count"] == 2
    assert (changed["name"], changed["config"], changed["triggerType"]) == (
        "Export!", config, "webhook",
    )  # fmt: skip
    run = body_of(client.post(f"{path}/runs"))
    assert run["versionNumber"] == 2
    renamed = {"name": "Export", "config": config}
    assert mistake_of(client, "PUT", path, json=renamed) == (["body", "name"], "value_error")
    assert mistake_of(client, "PUT", path, json={}) == (["body", "config"], "missing")
    assert ADAPTER.refusal(client.put(f"{AUTOMATIONS}/{NOBODY}", json={"config": config})) == 404
    assert body_of(client.get(path))["versionsSummary"]["count"] == 2


def test_unusual_names_stay_distinct_and_unchanged(client: FlaskClient) -> None:
    long = [f"{'n' * 99}{end}" for end in ("n", "nn", "nm")]
    names = ["日本", "中国", "日本 report", "中国 report", "..", *long]
    created = [
        body_of(client.post(AUTOMATIONS, json={"name": name, "config": CONFIG})) for name in names
    ]

    assert [each["name"] for each in created] == names
    assert len({each["id"] for each in created}) == len(names)
    again = client.post(AUTOMATIONS, json={"name": names[3], "config": CONFIG})
    assert ADAPTER.refusal(again) == 409
    same = {"name": names[3], "config": CONFIG}
    answer = body_of(client.put(f"{AUTOMATIONS}/{created[3]['id']}", json=same))
    assert (answer["id"], answer["versionsSummary"]["count"]) == (created[3]["id"], 1)


def test_a_wrong_input_says_what_is_wrong_and_starts_nothing(client: FlaskClient) -> None:
    created = body_of(client.post(AUTOMATIONS, json={"name": "n", "config": CONFIG}))
    path = f"{AUTOMATIONS}/{created['id']}/runs"

    wrong = mistake_of(client, "POST", path, json={"input": {"day": "x"}})
    assert wrong == (["body", "input", "day"], "value_error")
    assert mistake_of(client, "POST", path, json={"input": []}) == (["body", "input"], "dict_type")
    assert mistake_of(client, "POST", path, json={"concurrencyKey": ""}) == (
        ["body", "concurrencyKey"], "string_too_short",
    )  # fmt: skip
    unknown = client.post(f"{AUTOMATIONS}/{NOBODY}/runs")
    assert (unknown.status_code, unknown.json) == (404, {"detail": "Automation not found"})
    assert body_of(client.get(RUNS))["total"] == 0


@pytest.mark.row("VirtuousAI concurrencyKey: one run at a time")
def test_runs_with_the_same_concurrency_key_go_one_after_the_other(
    client: FlaskClient, database: Database
) -> None:
    created = body_of(client.post(AUTOMATIONS, json={"name": "n", "config": CONFIG}))
    path, body = f"{AUTOMATIONS}/{created['id']}/runs", {"concurrencyKey": "ledger"}
    first, second = (body_of(client.post(path, json=body)) for _ in range(2))

    assert (first["concurrencyKey"], second["status"]) == ("ledger", "pending")
    assert first["externalJobId"] is not None
    assert second["externalJobId"] is None
    body_of(client.post(f"{RUNS}/{first['id']}/cancel"))
    with database.transaction() as session:
        assert runs.get(session, UUID(second["tenantId"]), UUID(second["id"])).due
