"""Cancel all runs of a filter."""

from typing import Any
from uuid import UUID

import pytest
from flask.testing import FlaskClient
from sqlalchemy import select

from orchestrator.broker.messages import Outbound
from orchestrator.db.database import Database
from orchestrator.engine import concurrency
from orchestrator.errors import Invalid
from orchestrator.maintenance import sweeps
from orchestrator.models import Run, Step
from orchestrator.runs import NewRun, RunFilter, batch, cancellation
from tests.support.factories import (  # fmt: skip
    GRACE,
    a_claim,
    a_run,
    a_spec,
    a_tenant,
    the_events,
    the_run,
)

CANCEL = "/api/v1/runs/bulk/cancel"


def _many(database: Database, count: int) -> list[UUID]:
    with database.transaction() as session:
        news = [NewRun(workflow="work")] * count
        created, _ = batch.submit_many(session, a_tenant(session), news)
        return [run.id for run in created]


def _cancel(database: Database, **which: Any) -> int:
    done, last = 0, None
    while True:
        with database.transaction() as session:
            options = {"grace": GRACE, "reason": "enough", "after": last}
            ids = cancellation.cancel_many(
                session, a_tenant(session), RunFilter(**which), **options
            )
        if not ids:
            return done
        done, last = done + len(ids), ids[-1]


def _states(database: Database, model: type[Run | Step]) -> list[str]:
    with database.transaction() as session:
        return sorted(session.scalars(select(model.state)))


def test_waiting_runs_are_cancelled_and_running_ones_are_revoked(
    database: Database, sent: list[Outbound]
) -> None:
    running = a_run(database, a_spec(steps=2))
    claimed = the_run(database, running).steps[0].task_id or ""
    assert a_claim(database, claimed) is not None
    queued = a_run(database)
    waiting = _many(database, cancellation.CANCEL_BATCH + 1)
    sent.clear()

    assert _cancel(database, workflow=["work"]) == len(waiting) + 2
    assert _states(database, Run) == ["cancelled"] * (len(waiting) + 1) + ["cancelling"]
    assert the_run(database, running).cancel_reason == "enough"
    assert the_events(database, queued)[-2:] == ["step.cancelled", "run.cancelled"]
    revoked = {task_id for each in sent for task_id in each.revoked}
    assert {claimed, the_run(database, queued).steps[0].task_id} <= revoked
    assert _cancel(database, workflow=["work"]) == 0


def test_only_what_the_filter_finds_is_cancelled(database: Database) -> None:
    kept = a_run(database, window=0, tags=["keep"])
    gone = a_run(database, window=0, tags=["drop"])

    assert _cancel(database, tag=["drop"], state=["pending", "succeeded"]) == 1
    assert the_run(database, kept).state == "pending"
    assert the_run(database, gone).state == "cancelled"
    with pytest.raises(Invalid, match="cannot be cancelled"):
        _cancel(database, state=["succeeded"])


def test_a_concurrency_key_goes_on_to_a_run_that_stays(database: Database) -> None:
    a_run(database, window=0, concurrency_key="k", tags=["drop"])
    stays = a_run(database, window=0, concurrency_key="k")

    assert _cancel(database, tag=["drop"]) == 1
    assert the_run(database, stays).due
    with database.transaction() as session:
        assert concurrency.free_keys(session, 10) == []
    assert sweeps.admit_waiting(database, window=1) == 1


def test_the_api_counts_first_and_then_cancels(client: FlaskClient, database: Database) -> None:
    a_run(database, window=0)
    _many(database, 450)
    body: dict[str, Any] = {"filter": {"workflow": ["work"]}, "reason": "enough"}

    counted = client.post(CANCEL, json=body | {"dry_run": True}).get_json()
    done = client.post(CANCEL, json=body).get_json()

    assert counted == {"cancelled": 0, "left": 451}
    assert done == {"cancelled": 451, "left": 0}
    assert set(_states(database, Run)) == {"cancelled"}


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({}, "/filter"),
        ({"filter": {}}, "/filter"),
        ({"filter": {"colour": "red"}}, "/filter/colour"),
        ({"filter": {"state": ["failed"]}}, "/filter/state"),
        ({"filter": {"workflow": "work"}}, "/filter/workflow"),
    ],
)
def test_a_filter_that_means_nothing_is_refused(
    client: FlaskClient, body: dict[str, Any], pointer: str
) -> None:
    response = client.post(CANCEL, json=body)

    assert response.status_code == 422
    assert [each["pointer"] for each in response.get_json()["errors"]] == [pointer]
