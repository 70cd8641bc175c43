"""Event streams: every event once and in order, and an end with the run's end."""

import json
import random
import threading
from collections.abc import Iterator
from itertools import islice
from typing import Any
from uuid import UUID

import pytest
from flask.testing import FlaskClient

from api.toolkit import sse
from orchestrator import runs
from orchestrator.db import journal, statements, transitions
from orchestrator.db.database import Database
from orchestrator.engine import attempts
from orchestrator.engine.outcomes import Succeeded
from orchestrator.models import Run
from tests.support.factories import GRACE, a_claim, a_run, a_spec, a_tenant, eventually, messages_in

STREAM = {"Accept": "text/event-stream"}


def _read(client: FlaskClient, path: str, **headers: str) -> Iterator[dict[str, Any]]:
    """The events of a stream as they arrive, each with its `id`."""
    reply = client.get(path, headers={**STREAM, **headers})
    assert reply.status_code == 200, reply.get_data()
    assert reply.mimetype == "text/event-stream"
    try:
        for part in reply.iter_encoded():
            fields = dict(line.split(": ", 1) for line in part.decode().splitlines() if line)
            if "data" in fields:
                yield {**json.loads(fields["data"]), "id": fields["id"]}
    finally:
        reply.close()


def _note(database: Database, run: Run, count: int = 1) -> None:
    """Record events of the run."""
    with database.transaction() as session:
        transitions.lock_run(session, run.id)
        for _ in range(count):
            journal.record_event(session, run.id, "run.noted")


def _path(run: Run) -> str:
    return f"/api/v1/runs/{run.id}/events"


def test_a_run_that_has_ended_is_replayed_and_the_stream_closes(
    client: FlaskClient, database: Database
) -> None:
    run = a_run(database)
    with database.transaction() as session:
        runs.cancel(session, run.tenant_id, run.id, grace=GRACE)

    events = list(_read(client, _path(run)))

    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
    assert events[-1]["type"] == "run.cancelled"
    assert [event["id"] for event in events] == [str(event["seq"]) for event in events]


def test_a_reader_that_has_seen_everything_is_told_to_stay_away(
    client: FlaskClient, database: Database
) -> None:
    run = a_run(database)
    with database.transaction() as session:
        runs.cancel(session, run.tenant_id, run.id, grace=GRACE)
    last = str(list(_read(client, _path(run)))[-1]["seq"])

    again = client.get(_path(run), headers={**STREAM, "Last-Event-ID": last})

    assert again.status_code == 204


def test_a_stream_goes_on_live_until_the_run_ends(
    client: FlaskClient, database: Database, sent: list[Any]
) -> None:
    run = a_run(database)
    stream = _read(client, _path(run))
    before = list(islice(stream, 3))
    assert [event["type"] for event in before] == ["run.created", "run.queued", "step.queued"]

    claim = a_claim(database, messages_in(sent)[0].task_id)
    assert claim is not None
    with database.transaction() as session:
        attempts.record_outcome(session, claim, Succeeded(None))

    after = [event["type"] for event in stream]
    assert sorted(after[:2]) == ["run.started", "step.started"]
    assert after[2:] == ["step.succeeded", "run.succeeded"]


def test_a_run_that_was_reopened_is_followed_past_its_first_end(
    client: FlaskClient, database: Database
) -> None:
    run = a_run(database)
    with database.transaction() as session:
        runs.cancel(session, run.tenant_id, run.id, grace=GRACE)
    answer = client.post(f"/api/v1/runs/{run.id}/retry", json={"mode": "full"})
    assert answer.status_code == 200

    stream = _read(client, _path(run))

    types: list[str] = []
    while not types or types[-1] != "run.queued" or "run.reopened" not in types:
        types.append(next(stream)["type"])
    assert "run.cancelled" in types
    stream.close()  # type: ignore[attr-defined]


def test_a_reader_that_comes_and_goes_sees_every_event_once_and_in_order(
    client: FlaskClient, database: Database
) -> None:
    run = a_run(database)
    chance = random.Random(7)

    def write() -> None:
        for _ in range(150):
            _note(database, run, chance.randint(1, 4))
        with database.transaction() as session:
            runs.cancel(session, run.tenant_id, run.id, grace=GRACE)

    writer = threading.Thread(target=write)
    writer.start()
    seen: list[dict[str, Any]] = []
    visits = 0
    while not seen or seen[-1]["type"] != "run.cancelled":
        last = {"Last-Event-ID": seen[-1]["id"]} if seen else {}
        stream = _read(client, _path(run), **last)
        seen += islice(stream, random.Random(visits).randint(1, 6))
        stream.close()  # type: ignore[attr-defined]
        visits += 1
    writer.join()

    assert [event["seq"] for event in seen] == list(range(1, len(seen) + 1))
    with database.transaction() as session:
        assert len(seen) == runs.get(session, run.tenant_id, run.id).event_seq
    assert visits > 50


def test_a_stream_of_the_tenant_has_the_events_of_every_run_in_the_order_of_commits(
    client: FlaskClient, database: Database
) -> None:
    a_run(database, a_spec("before"))  # not in the stream: without a position it begins now
    stream = _read(client, "/api/v1/runs/events")
    threading.Timer(0.2, lambda: [a_run(database, a_spec(name)) for name in "abc"]).start()
    events = list(islice(stream, 5))
    stream.close()  # type: ignore[attr-defined]

    rest = _read(client, "/api/v1/runs/events", **{"Last-Event-ID": events[-1]["id"]})
    events += islice(rest, 4)
    rest.close()  # type: ignore[attr-defined]

    assert [event["type"] for event in events] == ["run.created", "run.queued", "step.queued"] * 3
    assert len({event["run_id"] for event in events}) == 3


def test_an_event_that_commits_late_is_not_missed_by_a_reader_of_the_tenant(
    client: FlaskClient, database: Database
) -> None:
    late, early = a_run(database, a_spec("late")), a_run(database, a_spec("early"))
    cursor = client.get("/api/v1/runs/events?limit=200").json["next_cursor"]  # type: ignore[index]
    with database.transaction() as session:
        transitions.lock_run(session, late.id)
        journal.record_event(session, late.id, "run.noted")
        statements.execute(session, "SELECT pg_current_xact_id()")  # it began to write first
        _note(database, early)
        held_back = client.get(f"/api/v1/runs/events?cursor={cursor}").json
        assert held_back is not None
        assert held_back["items"] == []

    address = f"/api/v1/runs/events?cursor={held_back['next_cursor']}"
    # Transactions of other databases of the server hold them back, too.
    items = eventually(lambda: client.get(address).json["items"])  # type: ignore[index]
    assert [event["run_id"] for event in items] == [str(late.id), str(early.id)]


def test_another_tenants_events_are_not_told(client: FlaskClient, database: Database) -> None:
    run = a_run(database)
    with database.transaction() as session:
        events = runs.events_of_tenant(session, UUID(int=1), limit=10)
        assert runs.events_of_tenant(session, a_tenant(session), limit=10)

    assert events == []
    assert client.get("/api/v1/runs/events").json["items"][0]["run_id"] == str(run.id)  # type: ignore[index]


def test_a_stream_ends_when_its_key_is_revoked(
    client: FlaskClient, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sse, "CHECK_SECONDS", 0.0)  # it is a minute
    run = a_run(database)
    key: Any = client.post("/api/v1/keys", json={"name": "reader", "role": "viewer"}).json
    events = _read(client, _path(run), Authorization=f"Bearer {key['key']}")
    assert len(list(islice(events, 2))) == 2

    assert client.post(f"/api/v1/keys/{key['id']}/revoke").status_code == 200

    _note(database, run)
    assert len(list(events)) <= 1


@pytest.mark.parametrize("event_id", ["abc", "-1", "1.5", "99999999999999999999", "1.2"])
def test_a_last_event_id_that_is_not_ours_is_refused(
    client: FlaskClient, database: Database, event_id: str
) -> None:
    run = a_run(database)

    answer = client.get(_path(run), headers={**STREAM, "Last-Event-ID": event_id})

    assert answer.status_code == 422
    assert answer.json is not None
    assert answer.json["errors"][0]["pointer"] == "/headers/Last-Event-ID"
