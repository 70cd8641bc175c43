"""`/api/v1/schedules` and `/api/v1/backfills`."""

import math
import tracemalloc
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
from flask.testing import FlaskClient

from orchestrator.access import keys
from orchestrator.access.keys import NewKey
from orchestrator.db.database import Database
from orchestrator.models import Role
from tests.support.factories import a_spec, a_tenant

URL = "/api/v1/schedules"
CRON = {"workflow": "work", "type": "cron", "cron": "0 16 * * *", "timezone": "Europe/Berlin"}
API = {"workflow": "work", "type": "api"}
TYPED = {
    "type": "object",
    "properties": {"n": {"type": "integer"}},
    "required": ["n"],
}


@pytest.fixture(autouse=True)
def _workflow(client: FlaskClient) -> None:
    assert client.post("/api/v1/workflows", json=a_spec()).status_code == 201


def create(client: FlaskClient, body: dict[str, Any]) -> dict[str, Any]:
    """Create a schedule."""
    answer = client.post(URL, json=body)
    assert answer.status_code == 201, answer.json
    assert answer.headers["Location"] == f"{URL}/{answer.json['id']}"
    return dict(answer.json)


def as_role(database: Database, role: Role) -> dict[str, str]:
    """The header of a key with this role."""
    with database.transaction() as session:
        secret = keys.new_secret()
        session.add(keys.key_row(a_tenant(session), secret, NewKey(name=str(uuid4()), role=role)))
    return {"Authorization": f"Bearer {secret}"}


def mistakes(answer: Any) -> dict[str, str]:
    """What is wrong, by pointer."""
    assert answer.status_code == 422, answer.json
    return {each["pointer"]: each["detail"] for each in answer.json["errors"]}


def test_a_schedule_is_made_shown_listed_changed_and_deleted(client: FlaskClient) -> None:
    schedule = create(client, CRON | {"params": {"a": 1}, "sla": "2h", "tags": ["b", "a", "b"]})

    assert (schedule["workflow"], schedule["type"], schedule["active"]) == ("work", "cron", True)
    assert (schedule["sla"], schedule["tags"], schedule["name"]) == ("2h", ["a", "b"], "work")
    assert (schedule["overlap"], schedule["catch_up"]) == ("allow", "latest")
    assert schedule["next_at"] is not None
    assert (schedule["token"], schedule["url"]) == (None, None)
    address = f"{URL}/{schedule['id']}"
    assert client.get(address).json == schedule
    assert client.get(URL, query_string={"type": "cron", "active": "true"}).json["items"] == [
        schedule
    ]
    assert client.get(URL, query_string={"workflow": "other"}).json["items"] == []
    changed = client.patch(address, json={"active": False, "cron": "@hourly"}).json
    assert (changed["active"], changed["cron"], changed["next_at"]) == (False, "@hourly", None)
    assert client.delete(address).status_code == 204
    assert client.get(address).status_code == 404


def test_pages_of_schedules_follow_each_other(client: FlaskClient) -> None:
    numbers = [create(client, CRON)["number"] for _ in range(3)]

    first = client.get(URL, query_string={"limit": 2}).json
    cursor = first["next_cursor"]
    last = client.get(URL, query_string={"limit": 2, "cursor": cursor}).json

    listed = [each["number"] for page in (first, last) for each in page["items"]]
    assert listed == numbers[::-1]
    assert last["next_cursor"] is None


def test_the_next_instants_are_previewed_with_the_clocks_of_the_zone(client: FlaskClient) -> None:
    body = CRON | {"start_at": "2035-10-27T00:00:00Z"}
    schedule = create(client, body)

    preview = client.get(f"{URL}/{schedule['id']}/preview", query_string={"n": 2}).json

    assert preview["items"] == ["2035-10-27T14:00:00.000000Z", "2035-10-28T15:00:00.000000Z"]


@pytest.mark.parametrize(
    ("body", "pointer", "detail"),
    [
        (CRON | {"timezone": "Europe/Berlim"}, "/timezone", "did you mean Europe/Berlin?"),
        (CRON | {"timezone": "Mars\ud83d\ude00"}, "/timezone", "not in the tz database"),
        (CRON | {"cron": "0 0 31 2 *"}, "/cron", "no year has a day like this"),
        (CRON | {"cron": "* * * *"}, "/cron", "write minute, hour"),
        (CRON | {"cron": "61 * * * *"}, "/cron", "bad minute"),
        (CRON | {"cron": 5}, "/cron", "Not a valid string"),
        (
            CRON | {"start_at": "2035-01-02T00:00:00Z", "end_at": "2035-01-01T00:00:00Z"},
            "/end_at",
            "must be later than start_at",
        ),
        (CRON | {"end_at": "2020-01-01T00:00:00Z"}, "/end_at", "in the future"),
        (CRON | {"start_at": "9999-12-31T23:59:59Z"}, "/start_at", "no instant comes after it"),
        (CRON | {"every": "1h"}, "/every", "belongs to a schedule of type interval"),
        ({"workflow": "work", "type": "cron"}, "/cron", "a schedule of type cron needs it"),
        ({"workflow": "work", "type": "interval", "every": "0"}, "/every", "at least 1s"),
        ({"workflow": "work", "type": "interval", "every": "999999h"}, "/every", "ten years"),
        ({"workflow": "work", "type": "once", "at": "2020-01-01T00:00:00Z"}, "/at", "future"),
        ({"workflow": "work", "type": "event"}, "/after_workflow", "needs it"),
        (
            {"workflow": "work", "type": "event", "after_workflow": "nobody"},
            "/after_workflow",
            "there is no workflow 'nobody'",
        ),
        (
            {"workflow": "work", "type": "event", "after_workflow": "work", "after_states": ["up"]},
            "/after_states",
            "must name one or more of cancelled, failed",
        ),
        ({"workflow": "work", "type": "weekly"}, "/type", "Must be one of"),
        (CRON | {"overlap": "never"}, "/overlap", "Must be one of"),
        (CRON | {"jitter": "25h"}, "/jitter", "at most 24h"),
        (CRON | {"priority": 10}, "/priority", "0"),
        (CRON | {"active": "yes"}, "/active", "Not a valid boolean"),
        (CRON | {"colour": "red"}, "/colour", "unknown; there are active"),
        (CRON | {"name": "a\x00b"}, "/name", "U+0000"),
    ],
)
def test_a_schedule_that_cannot_be_is_refused_with_where_and_why(
    client: FlaskClient, body: dict[str, Any], pointer: str, detail: str
) -> None:
    errors = mistakes(client.post(URL, json=body))

    assert detail in errors[pointer], errors


def test_a_schedule_of_an_unknown_workflow_is_not_found(client: FlaskClient) -> None:
    assert client.post(URL, json=CRON | {"workflow": "nobody"}).status_code == 404
    assert client.post(URL, json=CRON | {"version": 9}).status_code == 404


def test_parameters_are_checked_when_the_schedule_is_made(client: FlaskClient) -> None:
    client.post("/api/v1/workflows", json=a_spec("typed", params=TYPED))
    cron, api = CRON | {"workflow": "typed"}, API | {"workflow": "typed"}

    assert "/params/n" in mistakes(client.post(URL, json=cron | {"params": {"n": "x"}}))
    assert mistakes(client.post(URL, json=cron))
    assert "/params/n" in mistakes(client.post(URL, json=api | {"params": {"n": "x"}}))
    schedule = create(client, api)  # what is missing comes with the trigger

    assert mistakes(client.post(schedule["url"], json={}))
    run = client.post(schedule["url"], json={"variables": {"n": 1}})
    assert (run.status_code, run.json["params"]) == (201, {"n": 1})


def test_a_trigger_needs_only_its_token(client: FlaskClient) -> None:
    schedule = create(client, API | {"params": {"a": 1}})
    stranger = client.application.test_client()

    answer = stranger.post(schedule["url"], json={"variables": {"b": 2}, "source": "billing"})
    empty = stranger.post(f"{URL}/{schedule['id']}/trigger/{schedule['token']}")

    assert answer.status_code == empty.status_code == 201
    assert answer.headers["Location"] == f"/api/v1/runs/{answer.json['id']}"
    assert (answer.json["trigger"], answer.json["params"]) == ("api", {"a": 1, "b": 2})


def test_a_wrong_token_does_not_tell_whether_there_is_a_schedule(client: FlaskClient) -> None:
    schedule, timed = create(client, API), create(client, CRON)
    stranger = client.application.test_client()
    addresses = [
        f"{URL}/{schedule['id']}/trigger/{'0' * 32}",
        f"{URL}/{timed['id']}/trigger/{schedule['token']}",
        f"{URL}/{uuid4()}/trigger/{schedule['token']}",
        f"{URL}/{schedule['id']}/trigger/%C3%A4%F0%9F%98%80",
    ]

    answers = [stranger.post(address, json={}) for address in addresses]

    assert {answer.status_code for answer in answers} == {404}
    assert len({answer.data for answer in answers}) == 1


def test_a_body_is_not_looked_at_before_its_token(client: FlaskClient) -> None:
    schedule = create(client, API)
    stranger = client.application.test_client()
    large = {"k" * 60_000: [1] * 50_000}
    bodies: list[dict[str, Any]] = [
        {"json": large},
        {"json": large | {"n": [0, math.nan]}},
        {"data": "[" * 100_000, "content_type": "application/json"},
        {"data": "<xml/>", "content_type": "text/xml"},
    ]

    for body in bodies:
        tracemalloc.start()
        try:
            answer = stranger.post(f"{URL}/{uuid4()}/trigger/{'0' * 32}", **body)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert answer.status_code == 404
        assert peak < 10_000_000  # bytes; most of them are the test client's

    assert [stranger.post(schedule["url"], **body).status_code for body in bodies] == [
        201, 422, 400, 415,
    ]  # fmt: skip


def test_a_rotated_token_is_of_no_use(client: FlaskClient) -> None:
    before = create(client, API)

    after = client.post(f"{URL}/{before['id']}/rotate-token").json

    assert after["token"] != before["token"]
    assert client.post(before["url"], json={}).status_code == 404
    assert client.post(after["url"], json={}).status_code == 201
    assert client.post(f"{URL}/{create(client, CRON)['id']}/rotate-token").status_code == 409


@pytest.mark.parametrize(
    ("body", "pointer"),
    [("[]", "/"), ('"x"', "/"), ("1", "/"), ('{"variables": []}', "/variables")],
)
def test_a_payload_must_be_an_object(client: FlaskClient, body: str, pointer: str) -> None:
    schedule = create(client, API)

    answer = client.post(schedule["url"], data=body, content_type="application/json")

    assert pointer in mistakes(answer)


def test_the_same_key_and_request_trigger_one_run(client: FlaskClient) -> None:
    schedule = create(client, API)
    keyed = {"Idempotency-Key": "k1"}

    first = client.post(schedule["url"], json={"n": 1}, headers=keyed)
    again = client.post(schedule["url"], json={"n": 1}, headers=keyed)
    other = client.post(schedule["url"], json={"n": 2}, headers=keyed)

    assert (first.json["id"], again.headers["Idempotent-Replayed"]) == (again.json["id"], "true")
    assert other.status_code == 422


def test_an_inactive_schedule_runs_by_hand_but_not_by_its_token(client: FlaskClient) -> None:
    schedule = create(client, API | {"active": False})

    by_token = client.post(schedule["url"], json={})
    by_hand = client.post(f"{URL}/{schedule['id']}/trigger", json={})

    assert (by_token.status_code, by_hand.status_code) == (409, 201)
    assert by_hand.json["trigger"] == "manual"


def test_viewers_look_and_see_no_token(client: FlaskClient, database: Database) -> None:
    schedule = create(client, API)
    viewer = as_role(database, Role.VIEWER)
    address = f"{URL}/{schedule['id']}"

    shown = client.get(address, headers=viewer).json

    assert (shown["token"], shown["url"]) == (None, None)
    assert client.post(URL, json=API, headers=viewer).status_code == 403
    assert client.patch(address, json={"active": False}, headers=viewer).status_code == 403
    assert client.delete(address, headers=viewer).status_code == 403
    assert client.post(f"{address}/trigger", headers=viewer).status_code == 403
    assert client.post(f"{address}/rotate-token", headers=viewer).status_code == 403


def test_only_an_admin_says_whose_rights_a_run_has(client: FlaskClient, database: Database) -> None:
    operator = as_role(database, Role.OPERATOR)

    refused = client.post(URL, json=API | {"run_as": "root"}, headers=operator)

    assert refused.status_code == 403
    assert client.post(URL, json=API, headers=operator).status_code == 201


def test_a_backfill_is_begun_shown_listed_and_cancelled(client: FlaskClient) -> None:
    schedule = create(client, CRON)
    body = {"start_at": "2025-01-01T00:00:00Z", "end_at": "2025-02-01T00:00:00Z", "parallel": 3}

    begun = client.post(f"{URL}/{schedule['id']}/backfills", json=body)

    assert begun.status_code == 201
    assert begun.headers["Location"] == f"/api/v1/backfills/{begun.json['id']}"
    assert (begun.json["state"], begun.json["progress"]["total"]) == ("running", 31)
    assert client.get(begun.headers["Location"]).json == begun.json
    for address in ("/api/v1/backfills", f"{URL}/{schedule['id']}/backfills"):
        assert client.get(address).json == {"items": [begun.json], "next_cursor": None}
    assert client.get("/api/v1/backfills?state=finished").json["items"] == []
    assert client.delete(f"{URL}/{schedule['id']}").status_code == 409
    cancelled = client.post(f"{begun.headers['Location']}/cancel")
    assert (cancelled.status_code, cancelled.json["state"]) == (200, "cancelled")
    assert client.post(f"{begun.headers['Location']}/cancel").status_code == 409
    assert client.get(f"/api/v1/backfills/{uuid4()}").status_code == 404


@pytest.mark.parametrize(
    ("change", "pointer"),
    [
        ({"end_at": "2024-01-01T00:00:00Z"}, "/end_at"),
        ({"end_at": "9999-12-31T00:00:00Z"}, "/end_at"),
        ({"start_at": "0001-01-01T00:00:00Z", "end_at": "0001-01-01T00:00:01Z"}, "/end_at"),
        ({"start_at": "yesterday"}, "/start_at"),
        ({"parallel": 0}, "/parallel"),
        ({"parallel": 10**30}, "/parallel"),
        ({"parallel": True}, "/parallel"),
        ({"params": []}, "/params"),
    ],
)
def test_a_backfill_that_cannot_be_is_refused(
    client: FlaskClient, change: dict[str, Any], pointer: str
) -> None:
    schedule = create(client, CRON)
    body = {"start_at": "2025-01-01T00:00:00Z", "end_at": "2025-02-01T00:00:00Z"} | change

    assert pointer in mistakes(client.post(f"{URL}/{schedule['id']}/backfills", json=body))


def test_a_schedule_without_instants_has_no_backfills(client: FlaskClient) -> None:
    schedule = create(client, API)
    now = datetime.now(UTC)
    body = {"start_at": now.isoformat(), "end_at": (now + timedelta(days=1)).isoformat()}

    assert client.post(f"{URL}/{schedule['id']}/backfills", json=body).status_code == 409


def test_the_end_of_a_run_is_noted_for_the_schedules_that_wait_for_it(client: FlaskClient) -> None:
    client.post("/api/v1/workflows", json=a_spec("next"))
    event = {"type": "event", "after_workflow": "work", "after_states": ["cancelled"]}
    schedule = create(client, {"workflow": "next", **event})
    run = client.post("/api/v1/runs", json={"workflow": "work"}).json

    client.post(f"/api/v1/runs/{run['id']}/cancel")

    (fired,) = client.get(f"{URL}/{schedule['id']}/firings").json["items"]
    assert (fired["source_run_id"], fired["outcome"]) == (run["id"], "waiting")
