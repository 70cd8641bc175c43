"""Mage's triggers: made, shown, changed, deleted, and pulled."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from flask.testing import FlaskClient
from sqlalchemy import func, update

from orchestrator import schedules
from orchestrator.db.database import Database
from orchestrator.engine.outcomes import Failed, Succeeded
from orchestrator.maintenance import sweeps
from orchestrator.models import Overlap, Run, Schedule, ScheduleType
from orchestrator.schedules import NewBackfill
from orchestrator.spec.cron import CatchUp
from orchestrator.states import RunState
from tests.contracts.mage.helpers import (
    PIPELINE,
    SPEC,
    a_trigger,
    address,
    answered,
    listed,
    play,
    put,
    refused,
    shown,
    started,
    the_schedule,
)
from tests.support.factories import WINDOW, a_run, a_schedule, a_spec, a_tenant
from tests.support.schedule_factories import miss, sweep

TRIGGERS = "/api/pipeline_schedules"
OF_PIPELINE = f"/api/pipelines/{PIPELINE}/pipeline_schedules"


def _change(client: FlaskClient, number: int, **members: Any) -> dict[str, Any]:
    reply = client.put(f"{TRIGGERS}/{number}", json={"pipeline_schedule": members})
    trigger: dict[str, Any] = answered(reply)["pipeline_schedule"]
    return trigger


@pytest.mark.row(
    "/api/pipelines/:uuid/pipeline_schedules, /api/pipeline_schedules/:id: make to delete"
)
def test_a_trigger_is_made_shown_listed_changed_and_deleted(
    client: FlaskClient, database: Database
) -> None:
    made = a_trigger(
        client,
        database,
        name="late forest",
        schedule_type="time",
        schedule_interval="@daily",
        start_time="2030-01-01 00:00:00",
        variables={"day": "monday"},
        sla=90,
        tags=["nightly"],
        settings={"skip_if_previous_running": True, "timeout": 600, "pipeline_run_limit": 3},
    )
    number = made["id"]

    row = the_schedule(database, number)
    assert (row.cron, row.overlap, row.sla) == ("@daily", Overlap.SKIP, timedelta(seconds=90))
    assert row.timeout == timedelta(seconds=600)
    assert made["start_time"] == "2030-01-01 00:00:00+00:00"
    assert made["next_pipeline_run_date"] == "2030-01-01 00:00:00+00:00"
    assert made["settings"] == {
        "skip_if_previous_running": True,
        "timeout": 600,
        "pipeline_run_limit": 3,
    }
    assert (made["status"], made["sla"], made["tags"]) == ("active", 90, ["nightly"])
    assert answered(client.get(f"{TRIGGERS}/{number}"))["pipeline_schedule"] == made
    (item,) = answered(client.get(OF_PIPELINE))["pipeline_schedules"]
    extra = {name: item.pop(name) for name in set(item) - set(made)}
    assert item == made
    assert extra == {
        "last_pipeline_run_status": None,
        "pipeline_runs_count": 0,
        "pipeline_in_progress_runs_count": 0,
    }
    changed = _change(client, number, status="inactive", settings={})
    assert (changed["status"], changed["settings"]) == ("inactive", {})
    assert (changed["schedule_interval"], changed["next_pipeline_run_date"]) == ("@daily", None)
    gone = answered(client.delete(f"{TRIGGERS}/{number}"))
    assert gone == {"pipeline_schedule": changed, "metadata": None}
    refused(client.get(f"{TRIGGERS}/{number}"), 404, "record_not_found")


def test_what_a_trigger_shows_can_be_put_back(client: FlaskClient, database: Database) -> None:
    soon = str(datetime.now(UTC) + timedelta(days=1))
    for members in (
        {"schedule_type": "api"},
        {"schedule_type": "time", "schedule_interval": "@once", "start_time": soon},
        {"schedule_type": "time", "schedule_interval": "@once"},
        {"schedule_type": "time", "schedule_interval": "@always_on"},
        {"schedule_type": "time", "schedule_interval": "@every 1m30s"},
        {"schedule_type": "time", "schedule_interval": "*/5 2 * * *"},
    ):
        made = a_trigger(client, database, **members)
        before = the_schedule(database, made["id"])

        again = _change(client, made["id"], **made)

        assert again | {"updated_at": None} == made | {"updated_at": None}
        assert again["schedule_interval"] == members.get("schedule_interval")
        assert the_schedule(database, made["id"]).next_at == before.next_at


def test_the_words_for_an_interval_are_rules(client: FlaskClient, database: Database) -> None:
    def made(**members: Any) -> Schedule:
        trigger = a_trigger(client, database, schedule_type="time", **members)
        return the_schedule(database, trigger["id"])

    once = made(schedule_interval="@once", start_time="2001-01-01T00:00:00Z")
    always = made(schedule_interval="@always_on")

    assert once.type == ScheduleType.ONCE
    assert once.at is not None
    assert once.at > once.created_at
    assert (always.type, always.overlap) == (ScheduleType.INTERVAL, Overlap.SKIP)
    for named in ("@hourly", "@monthly"):
        assert made(schedule_interval=named).cron == named


def test_a_trigger_changes_its_type(client: FlaskClient, database: Database) -> None:
    number = a_trigger(client, database)["id"]

    by_clock = _change(client, number, schedule_type="time", schedule_interval="@hourly")
    by_token = _change(client, number, schedule_type="api")

    assert (by_clock["schedule_type"], by_clock["schedule_interval"]) == ("time", "@hourly")
    assert by_clock["next_pipeline_run_date"]
    assert (by_token["schedule_type"], by_token["schedule_interval"]) == ("api", None)
    assert by_token["next_pipeline_run_date"] is None


def test_a_trigger_waits_for_the_end_of_other_runs(client: FlaskClient, database: Database) -> None:
    a_run(database, a_spec("load"))
    pattern = {"pipeline_uuid": "load", "status": ["completed", "failed"]}

    made = a_trigger(client, database, schedule_type="event", event_matchers=[{"pattern": pattern}])

    assert made["event_matchers"] == [
        {"event_type": "pipeline_run", "name": "load", "pattern": pattern}
    ]
    row = the_schedule(database, made["id"])
    assert row.after_workflow == "load"
    assert row.after_states == ["succeeded", "failed", "timed_out"]


@pytest.mark.row("POST with a token: an inactive trigger becomes active")
def test_a_new_trigger_is_inactive_until_its_token_is_used(
    client: FlaskClient, database: Database
) -> None:
    a_run(database, SPEC)
    made = answered(client.post(OF_PIPELINE, json={"pipeline_schedule": {}}))["pipeline_schedule"]
    assert (made["status"], made["schedule_type"]) == ("inactive", "api")
    assert (made["name"], made["last_enabled_at"]) == (PIPELINE, None)

    started(client, made)

    after = answered(client.get(f"{TRIGGERS}/{made['id']}"))["pipeline_schedule"]
    assert after["status"] == "active"
    assert after["last_enabled_at"]


@pytest.mark.row("PUT pipeline_schedules/:id `rotate_token`: another token")
def test_a_rotated_token_is_of_no_use(client: FlaskClient, database: Database) -> None:
    trigger = a_trigger(client, database)

    rotated = _change(client, trigger["id"], rotate_token=True)

    assert len(rotated["token"]) == 32
    old: Any = client.post(address(trigger), json={}).json
    assert old["error"]["exception"].startswith("Invalid token")
    started(client, rotated)


@pytest.mark.row("GET /api/pipeline_schedules: the last status and the counts of a trigger's runs")
def test_triggers_are_counted_in_pages(client: FlaskClient, database: Database) -> None:
    first = a_trigger(client, database)
    second = a_trigger(client, database, status="inactive")
    other = a_schedule(database, a_spec("other"))
    play(database, started(client, first)["id"], Failed("no"))
    started(client, first)

    def ids(**query: Any) -> list[int]:
        rows = answered(client.get(TRIGGERS, query_string=query))["pipeline_schedules"]
        return [each["id"] for each in rows]

    page = answered(client.get(TRIGGERS, query_string={"_limit": 1, "_offset": 2}))
    (row,) = page["pipeline_schedules"]
    assert page["metadata"] == {"count": 3, "next": False}
    assert (row["id"], row["last_pipeline_run_status"]) == (first["id"], "running")
    assert (row["pipeline_runs_count"], row["pipeline_in_progress_runs_count"]) == (2, 1)
    assert ids() == [other.number, second["id"], first["id"]]
    assert ids(status="inactive") == [second["id"]]
    assert ids(pipeline_uuid="other") == [other.number]
    refused(client.get("/api/pipelines/nope/pipeline_schedules"), 404, "record_not_found")


def test_each_trigger_is_on_one_page_while_others_are_made(
    client: FlaskClient, database: Database
) -> None:
    made = [a_trigger(client, database)["id"] for _ in range(5)][::-1]
    shown_ids = []
    for offset in (0, 2, 4):
        page = answered(client.get(TRIGGERS, query_string={"_limit": 2, "_offset": offset}))
        shown_ids += [each["id"] for each in page["pipeline_schedules"]]
        assert page["metadata"] == {"count": 5, "next": offset < 4}
        a_trigger(client, database)
    assert shown_ids == made


def test_a_trigger_that_cannot_be_is_refused_with_where_and_why(
    client: FlaskClient, database: Database
) -> None:
    a_run(database, SPEC)
    for members, place in (
        ({"schedule_type": "time"}, "schedule_interval"),
        ({"schedule_interval": "@never"}, "schedule_interval"),
        ({"schedule_interval": "@every x"}, "schedule_interval"),
        ({"schedule_type": "event"}, "event_matchers"),
        ({"schedule_type": "event", "event_matchers": [{"pattern": []}]}, "event_matchers"),
        (
            {"schedule_type": "event", "event_matchers": [{"pattern": {"pipeline_uuid": "no"}}]},
            "event_matchers",
        ),
        ({"schedule_type": "webhook"}, "schedule_type"),
        ({"start_time": "soon"}, "start_time"),
        ({"settings": {"timeout": "long"}}, "settings/timeout"),
        ({"settings": {"timeout_status": "done"}}, "settings/timeout_status"),
        ({"sla": -1}, "sla"),
        ({"status": "on"}, "status"),
        ({"tags": [1]}, "tags/0"),
    ):
        reply = client.post(OF_PIPELINE, json={"pipeline_schedule": members})
        (line,) = refused(reply, 400, "record_invalid")["errors"]
        assert line.startswith(f"/pipeline_schedule/{place}: ")
    unknown = client.post("/api/pipelines/nope/pipeline_schedules", json={"pipeline_schedule": {}})
    refused(unknown, 404, "record_not_found")


@pytest.mark.row("settings.skip_if_previous_running: a run that is started meanwhile is cancelled")
def test_a_run_that_is_skipped_by_its_trigger_is_recorded_as_cancelled(
    client: FlaskClient, database: Database
) -> None:
    trigger = a_trigger(client, database, settings={"skip_if_previous_running": True})
    first = started(client, trigger)

    second = started(client, trigger)

    assert (first["status"], second["status"]) == ("running", "cancelled")
    assert second["id"] != first["id"]
    assert shown(client, first["id"])["status"] == "running"
    put(client, first["id"], status="cancelled")
    assert started(client, trigger)["status"] == "running"


@pytest.mark.row("POST /api/pipeline_schedules/:id/pipeline_runs: `execution_date`, `backfill_id`")
def test_a_key_starts_a_run_for_a_date_and_a_backfill(
    client: FlaskClient, database: Database
) -> None:
    trigger = a_trigger(client, database, schedule_type="time", schedule_interval="@daily")
    path = f"{TRIGGERS}/{trigger['id']}/pipeline_runs"
    start = datetime(2026, 1, 1, tzinfo=UTC)
    with database.transaction() as session:
        new = NewBackfill(start_at=start, end_at=start + timedelta(days=2))
        backfill = schedules.create_backfill(session, a_tenant(session), trigger["id"], new)
    body = {
        "variables": {"day": "x"},
        "event_variables": {"who": "me"},
        "execution_date": "2026-01-01T01:00:00+01:00",
        "backfill_id": backfill.number,
    }

    run = answered(client.post(path, json={"pipeline_run": body}))["pipeline_run"]

    assert run["execution_date"] == "2026-01-01 00:00:00+00:00"
    assert (run["variables"], run["event_variables"]) == ({"day": "x"}, {"who": "me"})
    assert run["backfill_id"] == backfill.number
    assert listed(client, backfill_id=backfill.number) == [run["id"]]
    other = client.post(path, json={"pipeline_run": {"backfill_id": 10**30}})
    (line,) = refused(other, 400, "record_invalid")["errors"]
    assert line.startswith("/pipeline_run/backfill_id: ")


@pytest.mark.row("schedule_interval @weekly: a week begins on Monday, in UTC")
def test_a_week_begins_on_monday(client: FlaskClient, database: Database) -> None:
    made = a_trigger(client, database, schedule_type="time", schedule_interval="@weekly")

    assert made["schedule_interval"] == "@weekly"
    due = datetime.fromisoformat(made["next_pipeline_run_date"])
    assert (due.weekday(), due.hour, due.minute) == (0, 0, 0)


@pytest.mark.row("PUT pipeline_schedules/:id: what is given replaces the whole value, also by null")
def test_a_change_replaces_what_it_names(client: FlaskClient, database: Database) -> None:
    made = a_trigger(
        client,
        database,
        description="old",
        schedule_type="time",
        schedule_interval="@daily",
        start_time="2030-01-01 00:00:00",
        variables={"a": 1, "b": {"c": 2, "d": 3}},
        settings={"timeout": 60, "own": {"x": 1}},
        sla=90,
        tags=["x", "y"],
    )

    def after(**members: Any) -> dict[str, Any]:
        changed = _change(client, made["id"], **members)
        assert changed.pop("updated_at") > made["updated_at"]
        before = made | members
        del before["updated_at"]
        assert changed == before | {"next_pipeline_run_date": changed["next_pipeline_run_date"]}
        return changed

    after(variables={"b": {"c": 4}})
    after(variables={"b": {"c": 4}}, settings={"own": {"y": 2}})
    everything = {
        "variables": None, "settings": {}, "description": None, "start_time": None, "sla": None,
    }  # fmt: skip
    cleared = _change(client, made["id"], **everything | {"settings": None, "sla": 0})
    assert {name: cleared[name] for name in everything} == everything
    required = dict.fromkeys(("name", "schedule_type", "status", "tags", "event_matchers"))
    assert _change(client, made["id"], **required) | {"updated_at": 0} == cleared | {
        "updated_at": 0
    }
    interval = {"pipeline_schedule": {"schedule_interval": None}}
    refused(client.put(f"{TRIGGERS}/{made['id']}", json=interval), 400, "record_invalid")


@pytest.mark.row("start_time: UTC without an offset, answered in UTC; a recurring rule begins then")
def test_a_start_time_is_in_utc(client: FlaskClient, database: Database) -> None:
    for text, shown_as in (
        ("2030-03-06 04:53:00", "2030-03-06 04:53:00+00:00"),
        ("2030-03-06 04:53:00+01:00", "2030-03-06 03:53:00+00:00"),
        ("2030-03-06T04:53:00Z", "2030-03-06 04:53:00+00:00"),
    ):
        times = {"schedule_type": "time", "schedule_interval": "@daily", "start_time": text}
        made = a_trigger(client, database, **times)
        assert made["start_time"] == shown_as
        assert made["next_pipeline_run_date"] == "2030-03-07 00:00:00+00:00"


@pytest.mark.row(
    "settings.timezone: the zone of a trigger's rule",
    otherwise="because Mage has none: its rules are in UTC, as ours are without it",
)
def test_a_trigger_has_a_zone(client: FlaskClient, database: Database) -> None:
    times = {"schedule_type": "time", "schedule_interval": "0 6 * * *"}
    start = "2030-01-01 00:00:00"
    zone = {"timezone": "Europe/Berlin"}
    made = a_trigger(client, database, **times, start_time=start, settings=zone)

    assert made["next_pipeline_run_date"] == "2030-01-01 05:00:00+00:00"
    assert made["settings"] == zone
    again = _change(client, made["id"], **made)
    assert again["next_pipeline_run_date"] == made["next_pipeline_run_date"]
    utc = _change(client, made["id"], settings={})
    assert (utc["settings"], utc["next_pipeline_run_date"]) == ({}, "2030-01-01 06:00:00+00:00")
    wrong = {"pipeline_schedule": {**times, "settings": {"timezone": "Europe/Berlyn"}}}
    (line,) = refused(client.post(OF_PIPELINE, json=wrong), 400, "record_invalid")["errors"]
    assert line.startswith("/pipeline_schedule/settings/timezone: ")


@pytest.mark.row("settings.pipeline_run_limit: so many runs go on, more are `initial` until then")
def test_a_limit_lets_runs_wait(client: FlaskClient, database: Database) -> None:
    trigger = a_trigger(client, database, settings={"pipeline_run_limit": 2})
    made = [started(client, trigger)["id"] for _ in range(5)]

    def statuses() -> list[str]:
        return [shown(client, number)["status"] for number in made]

    assert statuses() == ["running"] * 2 + ["initial"] * 3
    put(client, made[1], status="cancelled")
    assert statuses() == ["running", "cancelled", "initial", "initial", "initial"]
    sweeps.admit_waiting(database, WINDOW)
    assert statuses() == ["running", "cancelled", "running", "initial", "initial"]
    play(database, made[0], *[Succeeded()] * 3)
    play(database, made[2], Failed("no"))
    sweeps.admit_waiting(database, WINDOW)
    assert statuses() == ["completed", "cancelled", "failed", "running", "running"]
    other = a_trigger(client, database, settings={"pipeline_run_limit": 1})
    assert started(client, other)["status"] == "running"


@pytest.mark.row(
    "settings.skip_if_previous_running: of a time trigger, no run is made meanwhile",
    otherwise="because a skipped instant is one of /api/v1/schedules/:id/firings, and no run",
)
def test_an_instant_while_a_run_goes_on_is_skipped_or_waits(
    client: FlaskClient, database: Database
) -> None:
    for settings, statuses in (
        ({"skip_if_previous_running": True}, ["running"]),
        ({"pipeline_run_limit": 1}, ["initial", "running"]),
        ({}, ["running", "running"]),
    ):
        times = {"schedule_type": "time", "schedule_interval": "@hourly", "settings": settings}
        trigger = a_trigger(client, database, **times)
        with database.transaction() as session:
            both = {"catch_up": CatchUp.ALL}
            schedules.change_schedule(session, a_tenant(session), trigger["id"], **both)
        miss(database, the_schedule(database, trigger["id"]), 2)

        assert sweep(database) == 2

        page = answered(client.get(f"{TRIGGERS}/{trigger['id']}/pipeline_runs"))
        assert [run["status"] for run in page["pipeline_runs"]] == statuses


def test_a_place_that_nobody_passed_on_is_taken(client: FlaskClient, database: Database) -> None:
    trigger = a_trigger(client, database, settings={"pipeline_run_limit": 2})
    _, second, third = (started(client, trigger)["id"] for _ in range(3))
    with database.transaction() as session:  # as if the third was not committed when it ended
        gone = update(Run).where(Run.number == second)
        session.execute(gone.values(state=RunState.CANCELLED, finished_at=func.now()))

    assert sweeps.grant_free_keys(database) == 1

    sweeps.admit_waiting(database, WINDOW)
    assert shown(client, third)["status"] == "running"
    assert sweeps.grant_free_keys(database) == 0


def test_a_retry_takes_a_place_that_is_free(client: FlaskClient, database: Database) -> None:
    trigger = a_trigger(client, database, settings={"pipeline_run_limit": 2})
    first, second = (started(client, trigger)["id"] for _ in range(2))
    play(database, first, Failed("no"))
    third = started(client, trigger)["id"]  # in the place of the first
    play(database, second, Failed("no"))

    assert answered(put(client, first, pipeline_run_action="retry_blocks"))
    repeat = {"pipeline": {"status": "retry", "pipeline_runs": [second]}}
    answered(client.put(f"/api/pipelines/{PIPELINE}", json=repeat))

    again = max(listed(client))
    statuses = [shown(client, number)["status"] for number in (first, third, again)]
    assert statuses == ["running", "running", "initial"]
    play(database, third, *[Succeeded()] * 3)
    sweeps.admit_waiting(database, WINDOW)
    assert shown(client, again)["status"] == "running"


@pytest.mark.row("settings.allow_blocks_to_fail: blocks that do not need a failed one still run")
def test_other_blocks_go_on_if_their_trigger_says_so(
    client: FlaskClient, database: Database
) -> None:
    spec = {
        "name": PIPELINE,
        "steps": [
            {"key": "fail", "uses": "noop"},
            {"key": "after", "uses": "noop", "needs": ["fail"]},
            {"key": "last", "uses": "noop", "needs": ["after"]},
            {"key": "other", "uses": "noop", "needs": []},
            {"key": "more", "uses": "noop", "needs": ["other"]},
            {"key": "both", "uses": "noop", "needs": ["other", "fail"]},
        ],
    }

    def statuses(number: int) -> tuple[str, dict[str, str]]:
        run = shown(client, number)
        return run["status"], {each["block_uuid"]: each["status"] for each in run["block_runs"]}

    ends = {"fail": "failed", "after": "upstream_failed", "last": "upstream_failed"}
    for allows in (True, False):
        trigger = a_trigger(client, database, settings={"allow_blocks_to_fail": allows})
        a_run(database, spec)
        number = started(client, trigger)["id"]
        play(database, number, Failed("no"))
        if allows:
            more = {"other": "queued", "more": "initial", "both": "upstream_failed"}
            assert statuses(number) == ("running", {**ends, **more})
            play(database, number, Succeeded(), Succeeded())
            more |= {"other": "completed", "more": "completed"}
        else:
            more = dict.fromkeys(("other", "more", "both"), "upstream_failed")
        assert statuses(number) == ("failed", {**ends, **more})


@pytest.mark.row("settings.create_initial_pipeline_run: a run of the present interval at once")
def test_an_initial_run_is_of_the_present_interval(client: FlaskClient, database: Database) -> None:
    def dates(trigger: dict[str, Any]) -> list[str]:
        sweep(database)
        page = answered(client.get(f"{TRIGGERS}/{trigger['id']}/pipeline_runs"))
        return [run["execution_date"] for run in page["pipeline_runs"]]

    times = {"schedule_type": "time", "schedule_interval": "@daily"}
    initial = {"create_initial_pipeline_run": True}
    today = str(datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0))
    plain = a_trigger(client, database, **times)
    later = a_trigger(client, database, **times, settings=initial, start_time="2030-01-01 00:00:00")
    idle = a_trigger(client, database, **times, settings=initial, status="inactive")
    made = a_trigger(client, database, **times, settings=initial, start_time="2020-01-01 12:00:00")

    assert [dates(each) for each in (plain, later, idle, made)] == [[], [], [], [today]]
    _change(client, made["id"], name="again")
    _change(client, made["id"], status="inactive")
    _change(client, made["id"], status="active")
    assert dates(made) == [today]
    _change(client, idle["id"], status="active")
    assert dates(idle) == [today]


def test_settings_that_cannot_be_are_refused(client: FlaskClient, database: Database) -> None:
    a_run(database, SPEC)
    for settings, place in (
        ({"pipeline_run_limit": 0}, "pipeline_run_limit"),
        ({"pipeline_run_limit": 1.5}, "pipeline_run_limit"),
        ({"pipeline_run_limit": 10**6}, "pipeline_run_limit"),
        ({"allow_blocks_to_fail": "yes"}, "allow_blocks_to_fail"),
        ({"create_initial_pipeline_run": "x"}, "create_initial_pipeline_run"),
        ({"timezone": 1}, "timezone"),
    ):
        reply = client.post(OF_PIPELINE, json={"pipeline_schedule": {"settings": settings}})
        (line,) = refused(reply, 400, "record_invalid")["errors"]
        assert line.startswith(f"/pipeline_schedule/settings/{place}: "), line
