"""VirtuousAI's list of events."""

from typing import Any

from flask.testing import FlaskClient

from orchestrator.db.database import Database
from tests.contracts.adapters.virtuousai import body_of
from tests.contracts.virtuousai.helpers import EVENTS, a_completed_run, a_failed_run


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


def test_events_come_in_pages_newest_first(client: FlaskClient, database: Database) -> None:
    a_failed_run(database)
    whole = body_of(client.get(EVENTS))

    pages = [body_of(client.get(f"{EVENTS}?limit=3&offset={at}")) for at in (0, 3, 6)]

    assert [event for page in pages for event in page["events"]] == whole["events"]
    assert [page["hasNext"] for page in pages] == [True, True, False]
    assert {(page["limit"], page["total"]) for page in pages} == {(3, 8)}
    moments = [event["occurredAt"] for event in whole["events"]]
    assert moments == sorted(moments, reverse=True)
