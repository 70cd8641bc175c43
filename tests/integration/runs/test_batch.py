"""A batch of runs: each as if it was submitted alone, or none of them."""

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from flask.testing import FlaskClient
from sqlalchemy import select, text

from orchestrator import runs, workflows
from orchestrator.db.database import Database
from orchestrator.errors import IdempotencyMismatch, Invalid
from orchestrator.maintenance import sweeps
from orchestrator.models import Run
from orchestrator.monitoring import backlog
from orchestrator.runs import NewRun, batch
from tests.support.factories import WINDOW, a_spec, a_tenant, a_webhook, the_deliveries, the_events

SPEC = a_spec(
    steps=2,
    tags=["spec"],
    sla="1h",
    timeout="2h",
    params={
        "type": "object",
        "properties": {"n": {"type": "integer", "default": 1}},
        "required": ["day"],
    },
)
SPEC["steps"][1]["enabled"] = False
FULL = NewRun(
    workflow="work",
    params={"day": "monday", "n": 2},
    priority=7,
    run_at=datetime(2099, 1, 1, 12, 30, 0, 5, tzinfo=UTC),
    tags=("b", "a"),
    reason="because",
    timeout=timedelta(seconds=1.5),
    sla=timedelta(minutes=5),
    annotations={"a": [1, "ü"]},
    notifications={"events": ["run.created"], "mail": ["a@example.org"]},
    concurrency_key="only one",
    submitted_by="me",
)
PLAIN = NewRun(workflow="work", params={"day": "tuesday"})
HELD = NewRun(workflow="work", params={"day": "wednesday"}, start=False)
BRIEF = NewRun(
    workflow="work", params={"day": "x"}, timeout=timedelta(microseconds=1), sla=timedelta.max
)
_TABLES = (("runs", "id", "id"), ("steps", "run_id", "number"), ("events", "run_id", "seq"))
# The columns that differ between two runs of equal requests.
_OWN = {
    "id", "number", "ordinal", "created_at", "late_at", "run_id", "tx", "occurred_at",
    "finished_at",
}  # fmt: skip


@pytest.fixture(autouse=True)
def _registered(database: Database) -> None:
    with database.transaction() as session:
        workflows.register(session, a_tenant(session), SPEC)


def _batch(database: Database, *news: NewRun, key: str | None = None) -> list[UUID]:
    with database.transaction() as session:
        created, _ = batch.submit_many(session, a_tenant(session), news, idempotency_key=key)
    return [run.id for run in created]


def _rows(database: Database, run_id: UUID) -> list[dict[str, Any]]:
    """The rows of a run in all tables, without the columns that must differ."""
    with database.transaction() as session:
        rows = [
            row._asdict()
            for table, by, order in _TABLES
            for row in session.execute(
                text(f"SELECT * FROM {table} WHERE {by} = :id ORDER BY {order}"), {"id": run_id}
            )
        ]
    run = rows[0]
    late = run["late_at"] and run["late_at"] - (run["run_at"] or run["created_at"])
    return [{name: each[name] for name in each.keys() - _OWN} for each in rows] + [{"late": late}]


def _count(database: Database) -> int:
    with database.transaction() as session:
        return runs.count(session, a_tenant(session), runs.RunFilter(state=()))


@pytest.mark.parametrize("new", [FULL, PLAIN, HELD, BRIEF], ids=["full", "plain", "held", "brief"])
def test_a_run_of_a_batch_is_as_if_it_came_alone(database: Database, new: NewRun) -> None:
    (of_batch, _) = _batch(database, new, PLAIN)
    with database.transaction() as session:
        alone, _ = runs.submit(session, a_tenant(session), new, window=0)

    assert _rows(database, of_batch) == _rows(database, alone.id)
    assert alone.timeout == (new.timeout or timedelta(hours=2))


def test_runs_are_made_counted_and_admitted_in_their_order(database: Database) -> None:
    hook = a_webhook(database, "http://receiver.example/x")
    ids = _batch(database, *[PLAIN] * 5, HELD)

    with database.transaction() as session:
        tenant = a_tenant(session)
        in_order = list(session.scalars(select(Run).order_by(Run.number)))
        assert [run.id for run in in_order] == ids
        assert backlog.count_waiting(session, tenant) == {"default": {4: 5}}
        assert runs.count(session, tenant, runs.RunFilter()) == 6
    assert [each.webhook_id for each in the_deliveries(database)] == [hook.id] * 6

    assert sweeps.admit_waiting(database, window=3) == 3
    with database.transaction() as session:
        states = [runs.get(session, tenant, run_id).state for run_id in ids]
        assert states == ["queued"] * 3 + ["pending"] * 3
    assert the_events(database, in_order[0]) == ["run.created", "run.queued", "step.queued"]


def test_of_a_batch_with_a_mistake_nothing_is_created(database: Database) -> None:
    wrong = [
        PLAIN,
        NewRun(workflow="work", params={"day": "x", "n": "many"}),
        NewRun(workflow="nobody"),
        NewRun(workflow="work", version=7, params={"day": "x"}),
        NewRun(workflow="work"),
    ]
    with pytest.raises(Invalid) as refused:
        _batch(database, *wrong)

    assert [each.pointer for each in refused.value.mistakes] == [
        "/runs/1/params/n", "/runs/2/workflow", "/runs/3/workflow", "/runs/4/params",
    ]  # fmt: skip
    assert _count(database) == 0


def test_more_steps_than_one_request_may_make_are_refused(database: Database) -> None:
    with database.transaction() as session:
        workflows.register(session, a_tenant(session), a_spec("long", steps=1000))
    with pytest.raises(Invalid, match="batch") as refused:
        _batch(database, *[NewRun(workflow="long")] * 101)

    assert "101,000 steps; send at most 100,000" in refused.value.mistakes[0].detail
    assert _count(database) == 0


def test_a_key_makes_the_same_runs_once(database: Database) -> None:
    first = _batch(database, PLAIN, FULL, key="k")

    assert _batch(database, PLAIN, FULL, key="k") == first
    assert _count(database) == 2
    with pytest.raises(IdempotencyMismatch):
        _batch(database, PLAIN, PLAIN, key="k")
    with pytest.raises(IdempotencyMismatch), database.transaction() as session:
        runs.submit(session, a_tenant(session), PLAIN, window=WINDOW, idempotency_key="k")


def test_runs_with_a_key_of_their_own_come_one_after_the_other(database: Database) -> None:
    one = NewRun(workflow="work", params={"day": "x"}, concurrency_key="alone")
    first, second = _batch(database, one, one)
    assert sweeps.grant_free_keys(database) == 1
    assert sweeps.admit_waiting(database, window=WINDOW) == 1

    with database.transaction() as session:
        tenant = a_tenant(session)
        assert runs.get(session, tenant, first).state == "queued"
        assert runs.get(session, tenant, second).state == "pending"


def test_the_api_accepts_a_batch_and_points_to_its_mistakes(client: FlaskClient) -> None:
    one = {"workflow": "work", "params": {"day": "x"}, "tags": ["t"]}
    headers = {"Idempotency-Key": "k"}
    responses = [
        client.post("/api/v1/runs/batch", json={"runs": [one] * 3}, headers=headers)
        for _ in range(2)
    ]
    created = responses[0].get_json()["items"]
    body = client.get(f"/api/v1/runs/{created[2]['id']}").get_json()
    wrong = [one, one | {"priority": 10}, one | {"colour": "red"}]
    refused = client.post("/api/v1/runs/batch", json={"runs": wrong})

    assert [response.status_code for response in responses] == [201, 201]
    assert responses[1].get_json()["items"] == created
    assert responses[1].headers["Idempotent-Replayed"] == "true"
    assert (body["number"], body["tags"], body["submitted_by"]) == (
        created[2]["number"], ["spec", "t"], "admin",
    )  # fmt: skip
    assert refused.status_code == 422
    assert {each["pointer"] for each in refused.get_json()["errors"]} == {
        "/runs/1/priority", "/runs/2/colour",
    }  # fmt: skip


@pytest.mark.parametrize("many", [0, batch.MAX_BATCH_RUNS + 1])
def test_a_batch_has_a_size(client: FlaskClient, many: int) -> None:
    response = client.post("/api/v1/runs/batch", json={"runs": [{"workflow": "work"}] * many})

    assert response.status_code == 422
    assert [each["pointer"] for each in response.get_json()["errors"]] == ["/runs"]
