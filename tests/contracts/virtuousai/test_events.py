"""VirtuousAI's list of events."""

from typing import Any

import pytest
from flask.testing import FlaskClient

from orchestrator.db.database import Database
from tests.contracts.adapters.virtuousai import AUTOMATIONS, RUNS, body_of
from tests.contracts.virtuousai.helpers import EVENTS, a_completed_run, a_failed_run
from tests.support.api_keys import a_key, with_key
from tests.support.factories import a_run


@pytest.mark.row("VirtuousAI GET events: event_type, resource_type, resource_id, from, to")
def test_events_are_filtered_by_type_resource_and_time(
    client: FlaskClient, database: Database
) -> None:
    run, other = a_failed_run(database), a_completed_run(database)

    def matches(**query: Any) -> list[tuple[str, str]]:
        page = body_of(client.get(EVENTS, query_string=query))
        assert page["total"] == len(page["events"])
        return [(event["eventType"], event["resourceId"]) for event in page["events"]]

    assert matches(event_type="automation.failed") == [("automation.failed", str(run.id))]
    assert matches(event_type="schedule.fired") == []
    assert matches(resource_type="automation_run") == matches()
    assert matches(resource_type="schedule") == []
    assert matches(resource_id=str(other.id))[0] == ("automation.completed", str(other.id))
    moment = other.created_at.isoformat().replace("+00:00", "Z")
    assert {each for _, each in matches(**{"from": moment})} == {str(other.id)}
    assert {each for _, each in matches(to=moment)} == {str(run.id)}


@pytest.mark.row("VirtuousAI GET events: actorType and actorId")
@pytest.mark.usefixtures("no_keys_left")
def test_an_event_names_who_caused_it(client: FlaskClient, database: Database) -> None:
    ana = with_key(client, a_key(client, user="ana.ruiz")["key"])
    ci = a_key(client)
    bot = with_key(client, ci["key"])
    automation = f"{AUTOMATIONS}/{a_run(database).workflow_id}"

    def actors(run: dict[str, Any]) -> dict[str, tuple[str, str | None]]:
        page = body_of(client.get(EVENTS, query_string={"resource_id": run["id"]}))
        return {each["eventType"]: (each["actorType"], each["actorId"]) for each in page["events"]}

    run = body_of(ana.post(f"{automation}/runs"))
    body_of(bot.post(f"{RUNS}/{run['id']}/cancel"))
    body_of(ana.post(f"{RUNS}/{run['id']}/retry", json={"mode": "full"}))
    other = body_of(bot.post(f"{automation}/runs"))

    assert actors(run) == {
        "automation.triggered": ("user", "ana.ruiz"),
        "automation.cancelled": ("api", ci["id"]),
        "action.cancelled": ("api", ci["id"]),
        "automation.retried": ("user", "ana.ruiz"),
    }
    assert actors(other) == {"automation.triggered": ("api", ci["id"])}
    done = a_completed_run(database)
    page = body_of(client.get(EVENTS, query_string={"resource_id": str(done.id)}))
    assert {(each["actorType"], each["actorId"]) for each in page["events"]} == {("system", None)}


@pytest.mark.row("VirtuousAI GET events: each event once while others happen")
def test_each_event_is_on_one_page_while_others_happen(
    client: FlaskClient, database: Database
) -> None:
    a_completed_run(database)
    first = body_of(client.get(EVENTS))
    listed: list[dict[str, Any]] = []
    for offset in range(0, first["total"], 2):
        page = body_of(client.get(f"{EVENTS}?limit=2&offset={offset}"))
        listed += page["events"]
        assert page["total"] == first["total"]
        a_run(database)

    assert listed == first["events"]


@pytest.mark.row("VirtuousAI GET events: limit, offset, hasNext, total")
def test_events_come_in_pages_newest_first(client: FlaskClient, database: Database) -> None:
    a_failed_run(database)
    whole = body_of(client.get(EVENTS))

    pages = [body_of(client.get(f"{EVENTS}?limit=3&offset={at}")) for at in (0, 3, 6)]

    assert [event for page in pages for event in page["events"]] == whole["events"]
    assert [page["hasNext"] for page in pages] == [True, True, False]
    assert {(page["limit"], page["total"]) for page in pages} == {(3, 8)}
    moments = [event["occurredAt"] for event in whole["events"]]
    assert moments == sorted(moments, reverse=True)
