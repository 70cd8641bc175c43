"""Concurrency keys, held runs and SLAs: what else than the window holds a run, and for how long."""

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from flask.testing import FlaskClient
from sqlalchemy import Engine, text

from orchestrator import runs
from orchestrator.broker.messages import Outbound
from orchestrator.db.database import Database
from orchestrator.engine import concurrency
from orchestrator.errors import InvalidTransition
from orchestrator.maintenance import sweeps
from orchestrator.models import Run
from orchestrator.runs import RetryMode, RetryRequest, retry
from orchestrator.states import RunState
from tests.support.factories import GRACE, WINDOW, a_run, a_spec, the_events, the_run

KEYED = {"concurrency_key": "ledger"}


def _states(database: Database, *own: Run) -> list[RunState]:
    return [the_run(database, run).state for run in own]


def _cancel(database: Database, run: Run) -> None:
    with database.transaction() as session:
        runs.cancel(session, run.tenant_id, run.id, grace=GRACE)


def test_one_run_at_a_time_has_a_key_and_the_others_wait_in_order(database: Database) -> None:
    first, second, third = (a_run(database, **KEYED) for _ in range(3))
    other = a_run(database, concurrency_key="other")
    elsewhere = a_run(database, a_spec("elsewhere"), **KEYED)

    assert _states(database, first, second, third) == ["queued", "pending", "pending"]
    assert _states(database, other, elsewhere) == ["queued", "queued"]

    _cancel(database, first)
    sweeps.admit_waiting(database, WINDOW)
    assert _states(database, second, third) == ["queued", "pending"]

    _cancel(database, third)  # one that waits has nothing to pass on
    _cancel(database, second)
    assert _states(database, a_run(database, **KEYED)) == ["queued"]


def test_many_at_once_never_let_two_have_the_key(database: Database) -> None:
    a_run(database)  # registers the workflow

    with ThreadPoolExecutor(8) as callers:
        submitted = list(callers.map(lambda _: a_run(database, **KEYED), range(16)))

    assert sorted(_states(database, *submitted)) == ["pending"] * 15 + ["queued"]
    for _ in range(15):
        (holder,) = [run for run in submitted if the_run(database, run).state == RunState.QUEUED]
        _cancel(database, holder)
        with ThreadPoolExecutor(4) as sweepers:
            list(sweepers.map(lambda _: sweeps.grant_free_keys(database), range(4)))
        sweeps.admit_waiting(database, WINDOW)


def test_a_key_that_was_not_passed_on_is_found_by_a_sweep(
    database: Database, engine: Engine
) -> None:
    first, second = a_run(database, **KEYED), a_run(database, **KEYED)
    with engine.begin() as connection:  # as if the second had been locked when the first ended
        connection.execute(
            text("UPDATE runs SET state = 'cancelled' WHERE id = :id"), {"id": first.id}
        )

    assert "grant_free_keys" in sweeps.due_sweeps(database)
    assert sweeps.grant_free_keys(database) == 1
    assert sweeps.grant_free_keys(database) == 0
    assert "grant_free_keys" not in sweeps.due_sweeps(database)
    assert the_run(database, second).due


def test_keys_that_nobody_can_have_yet_do_not_hide_those_that_are_free(
    database: Database, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweeps, "BATCH", 3)
    later = datetime.now(UTC) + timedelta(days=30)
    for number in range(5):
        a_run(database, concurrency_key=f"a{number}", run_at=later)
        a_run(database, concurrency_key=f"b{number}")
        a_run(database, concurrency_key=f"b{number}")  # waits for the one before
    free = a_run(database, concurrency_key="z", run_at=later)
    with engine.begin() as connection:
        now = text("UPDATE runs SET run_at = now() WHERE id = :id")
        connection.execute(now, {"id": free.id})

    assert sweeps.grant_free_keys(database) == 1
    assert the_run(database, free).due


def test_a_run_that_waits_for_a_key_has_none_to_give_when_it_is_cancelled(
    database: Database, engine: Engine
) -> None:
    later = datetime.now(UTC) + timedelta(days=30)
    first, second, third = (a_run(database, **KEYED, run_at=later) for _ in range(3))
    with engine.begin() as connection:
        connection.execute(text("UPDATE runs SET run_at = now()"))
    with database.transaction() as session, ThreadPoolExecutor(1) as other:
        assert concurrency.grant(session, first.workflow_id, "ledger") == 1
        other.submit(_cancel, database, second).result(5)  # meanwhile, and without waiting

    assert [the_run(database, run).due for run in (first, third)] == [True, False]


def test_a_run_that_is_reopened_waits_for_its_key_again(database: Database) -> None:
    first = a_run(database, **KEYED)
    _cancel(database, first)
    second = a_run(database, **KEYED)

    with database.transaction() as session:
        retry(session, first.tenant_id, first.id, RetryRequest(mode=RetryMode.FULL), window=WINDOW)

    assert _states(database, first, second) == ["pending", "queued"]
    _cancel(database, second)
    sweeps.admit_waiting(database, WINDOW)
    assert _states(database, first) == ["queued"]


def test_a_held_run_waits_until_somebody_starts_it(
    client: FlaskClient, database: Database, sent: list[Outbound]
) -> None:
    run = a_run(database, start=False)
    sweeps.release_due_runs(database)
    assert sweeps.admit_waiting(database, WINDOW) == 0
    assert sent == []

    started = client.post(f"/api/v1/runs/{run.id}/start")

    assert started.status_code == 200
    assert started.json is not None
    assert (started.json["state"], started.json["held"]) == ("queued", False)
    assert the_events(database, run)[:3] == ["run.created", "run.released", "run.queued"]
    again = client.post(f"/api/v1/runs/{run.id}/start")
    assert again.status_code == 409


def test_a_held_run_that_was_cancelled_is_let_go_by_a_retry(database: Database) -> None:
    run = a_run(database, start=False)
    _cancel(database, run)

    with database.transaction() as session:
        retry(session, run.tenant_id, run.id, RetryRequest(mode=RetryMode.FULL), window=WINDOW)

    again = the_run(database, run)
    assert (again.state, again.held) == (RunState.QUEUED, False)


def test_a_held_run_can_be_cancelled_and_then_not_be_started(database: Database) -> None:
    run = a_run(database, start=False)
    _cancel(database, run)

    with database.transaction() as session, pytest.raises(InvalidTransition, match="cancelled"):
        runs.start_held_run(session, run.tenant_id, run.id, window=WINDOW)


def test_a_run_that_outlasts_its_sla_is_flagged_once_and_goes_on(
    database: Database, engine: Engine
) -> None:
    run = a_run(database, sla=timedelta(minutes=5))
    assert "mark_late" not in sweeps.due_sweeps(database)
    with engine.begin() as connection:
        connection.execute(text("UPDATE runs SET late_at = now() - interval '1 s'"))

    assert "mark_late" in sweeps.due_sweeps(database)
    assert sweeps.mark_late(database) == 1
    assert sweeps.mark_late(database) == 0

    late = the_run(database, run)
    assert (late.passed_sla, late.state) == (True, RunState.QUEUED)
    assert the_events(database, run)[-1] == "run.late"


def test_the_sla_of_the_workflow_counts_from_when_the_run_may_start(
    client: FlaskClient, database: Database
) -> None:
    spec: dict[str, Any] = a_spec("promised", sla="10m")
    assert client.post("/api/v1/workflows", json=spec).status_code == 201
    request = {"workflow": "promised", "run_at": "2040-01-01T00:00:00Z"}
    run = client.post("/api/v1/runs", json=request).json

    assert run is not None
    assert run["late_at"] == "2040-01-01T00:10:00.000000Z"
    assert client.post("/api/v1/workflows", json={**spec, "sla": "0"}).status_code == 422
    last = {**request, "run_at": "9999-12-31T23:59:59Z"}
    assert client.post("/api/v1/runs", json=last).json["late_at"] is None  # type: ignore[index]


def test_what_a_caller_says_about_a_run_is_kept_and_shown(
    client: FlaskClient, database: Database
) -> None:
    client.post("/api/v1/workflows", json=a_spec())
    attributes = {
        "name": "March close",
        "description": "the second try",
        "environment": "staging",
        "run_as": "com_acme",
        "annotations": {"ticket": 17},
        "concurrency_key": "ledger",
    }

    run = client.post("/api/v1/runs", json={"workflow": "work", **attributes}).json

    assert run is not None
    assert {name: run[name] for name in attributes} == attributes
    assert (run["trigger"], run["source_type"], run["passed_sla"]) == ("manual", "key", False)
