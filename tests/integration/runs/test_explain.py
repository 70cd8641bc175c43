"""Nothing waits without a cause that the API can name."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import product
from typing import Any
from uuid import UUID

import pytest
from flask.testing import FlaskClient
from sqlalchemy import Engine, text
from sqlalchemy.orm import Session

from api.app import create_app
from config.settings import Settings
from orchestrator import runs
from orchestrator.broker.messages import Outbound
from orchestrator.db.database import Database
from orchestrator.engine import attempts, claims
from orchestrator.engine.outcomes import Failed, Succeeded
from orchestrator.local import processes
from orchestrator.maintenance import checks
from orchestrator.models import Run
from orchestrator.monitoring import workers
from orchestrator.monitoring.workers import real_name
from orchestrator.runs import CauseCode
from orchestrator.states import RunState
from tests.integration.monitoring.test_status import a_report, say
from tests.support.factories import GRACE, KEY, LEASE, WINDOW, a_claim, a_run, a_spec, messages_in

CHAIN = a_spec("chain", steps=2)


def _explain(client: FlaskClient, run: Run) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """The cause of the run, and those of its steps by key."""
    response = client.get(f"/api/v1/runs/{run.id}/explain")
    assert response.status_code == 200, response.text
    body = response.json or {}
    assert body["run_id"] == str(run.id)
    return body["cause"], {step["key"]: step["cause"] for step in body["steps"]}


def _claimed(database: Database, sent: list[Outbound]) -> claims.Claim:
    claim = a_claim(database, messages_in(sent)[0].task_id)
    assert claim is not None
    return claim


@pytest.fixture
def worker(database: Database) -> None:
    """One that listens to `default`."""
    say(database, a_report())


def test_a_run_that_nobody_has_started_is_held(client: FlaskClient, database: Database) -> None:
    cause, steps = _explain(client, a_run(database, CHAIN, start=False))

    assert cause["code"] == "held"
    assert [step["code"] for step in steps.values()] == ["run", "needs"]
    assert steps["s2"]["about"] == {"needs": {"s1": "pending"}}
    assert steps["s2"]["text"] == "it needs s1 (pending)"


def test_a_run_waits_for_its_start_time(client: FlaskClient, database: Database) -> None:
    at = datetime.now(UTC) + timedelta(hours=1)

    cause, _ = _explain(client, a_run(database, run_at=at))

    assert cause["code"] == "start_time"
    assert cause["about"] == {"until": f"{at:%Y-%m-%dT%H:%M:%S.%f}Z"}


def test_a_run_waits_for_the_run_that_has_its_key(client: FlaskClient, database: Database) -> None:
    first, second = (a_run(database, concurrency_key="ledger") for _ in range(2))

    cause, _ = _explain(client, second)

    assert cause["code"] == "concurrency_key"
    assert cause["about"] == {
        "key": "ledger", "run_id": str(first.id), "number": first.number, "state": "queued"
    }  # fmt: skip
    assert cause["text"] == f"run {first.number}, which is queued, has the concurrency key 'ledger'"


def test_a_run_waits_for_its_turn_and_for_room(
    client: FlaskClient, database: Database, engine: Engine, worker: None
) -> None:
    steps = [{"key": f"s{number}", "uses": "noop", "needs": []} for number in range(WINDOW)]
    a_run(database, {"name": "wide", "steps": steps})
    high, low = a_run(database, priority=6, window=0), a_run(database, window=0)

    cause = _explain(client, low)[0]
    assert cause["code"] == "rank"
    assert cause["about"] == {"queue": "default", "unclaimed": 16, "position": 3}

    with engine.begin() as connection:
        connection.execute(text("UPDATE steps SET published_at = now() WHERE state = 'queued'"))
    assert _explain(client, high)[0]["code"] == _explain(client, low)[0]["code"] == "window"


def test_a_run_that_may_start_waits_for_the_scheduler(
    client: FlaskClient, database: Database, worker: None
) -> None:
    cause, _ = _explain(client, a_run(database, window=0))

    assert cause["code"] == "scheduler"


def test_a_queue_without_workers_is_the_cause(client: FlaskClient, database: Database) -> None:
    queued, pending = a_run(database), a_run(database, window=0)

    cause, steps = _explain(client, queued)
    assert cause["code"] == steps["s1"]["code"] == "no_worker"
    assert cause["text"] == "step s1: no active worker listens to queue default"
    assert _explain(client, pending)[0]["code"] == "no_worker"


def test_a_draining_worker_is_named_if_no_other_listens(
    client: FlaskClient, database: Database, worker: None
) -> None:
    queued = a_run(database)
    with database.transaction() as session:
        workers.drain_worker(session, a_report().name, LEASE)

    cause = _explain(client, queued)[1]["s1"]

    assert cause["code"] == "no_worker"
    assert cause["text"] == "no active worker listens to queue default; draining: w1@here"
    assert cause["about"]["draining"] == ["w1@here"]


def test_a_run_whose_steps_have_queues_of_their_own_needs_no_worker_of_its_queue(
    client: FlaskClient, database: Database, worker: None
) -> None:
    steps = [{"key": "s1", "uses": "noop", "queue": "default"}]
    run = a_run(database, {"name": "elsewhere", "queue": "nobody", "steps": steps}, window=0)

    assert _explain(client, run)[0]["code"] == "scheduler"


def test_a_step_is_in_the_broker_or_waits_for_room_there(
    client: FlaskClient, database: Database, worker: None, engine: Engine
) -> None:
    run = a_run(database)

    cause, steps = _explain(client, run)
    assert cause["code"] == steps["s1"]["code"] == "in_broker"
    assert cause["about"]["published_at"].endswith("Z")

    with engine.begin() as connection:
        connection.execute(text("UPDATE steps SET published_at = NULL"))
    assert _explain(client, run)[1]["s1"]["code"] == "unpublished"


def test_a_step_that_was_sent_waits_for_a_redis_that_is_away(
    settings: Settings, database: Database, worker: None
) -> None:
    run = a_run(database)
    app = create_app(replace(settings, redis_url=f"redis://127.0.0.1:{processes.free_port()}/0"))
    client = app.test_client()
    client.environ_base["HTTP_AUTHORIZATION"] = f"Bearer {KEY}"

    cause, steps = _explain(client, run)
    for each in (
        app.extensions["orchestrator"].database,
        app.extensions["orchestrator"].unscoped_database,
    ):
        each.engine.dispose()

    assert cause["code"] == steps["s1"]["code"] == "broker"
    assert "Redis does not answer" in steps["s1"]["text"]


def test_who_executes_a_step_and_who_went_silent(
    client: FlaskClient, database: Database, sent: list[Outbound], engine: Engine
) -> None:
    run = a_run(database, CHAIN)
    _claimed(database, sent)

    cause, steps = _explain(client, run)
    assert (cause["code"], cause["about"]) == ("running", {"steps": ["s1"]})
    assert steps["s1"]["code"] == "running"
    assert steps["s1"]["about"].keys() == {"worker", "attempt", "since", "lease_until"}
    assert steps["s1"]["about"]["worker"] == "w1"
    assert steps["s2"]["code"] == "needs"

    with engine.begin() as connection:
        connection.execute(text("UPDATE attempts SET lease_until = now() - interval '1 s'"))
    assert "went silent" in _explain(client, run)[1]["s1"]["text"]


def test_a_retry_has_its_due_time_and_its_error(
    client: FlaskClient, database: Database, sent: list[Outbound]
) -> None:
    step = {"key": "s1", "uses": "noop", "retry": {"attempts": 3}}
    run = a_run(database, {"name": "again", "steps": [step]})
    with database.transaction() as session:
        claim = _claimed(database, sent)
        attempts.record_outcome(session, claim, Failed("no luck", after=LEASE))

    cause, steps = _explain(client, run)

    assert cause["code"] == steps["s1"]["code"] == "retry"
    assert steps["s1"]["about"]["attempt"] == 2
    assert steps["s1"]["about"]["error"]["message"] == "no luck"
    assert steps["s1"]["text"].startswith("try 2 of 3 is due at ")
    assert steps["s1"]["text"].endswith(", after: no luck")


def test_a_retry_without_a_limit_names_none(
    client: FlaskClient, database: Database, sent: list[Outbound]
) -> None:
    run = a_run(database, {"name": "endless", "steps": [{"key": "s1", "uses": "noop"}]})
    later = Failed("no luck", after=LEASE, attempts=2**31)
    with database.transaction() as session:
        attempts.record_outcome(session, _claimed(database, sent), later)

    assert _explain(client, run)[1]["s1"]["text"].startswith("try 2 is due at ")


def test_a_retry_counts_as_its_policy_does(
    client: FlaskClient, database: Database, sent: list[Outbound], engine: Engine
) -> None:
    step = {"key": "s1", "uses": "noop", "retry": {"attempts": 2}}
    run = a_run(database, {"name": "unlucky", "steps": [step]})
    with database.transaction() as session:  # as if it had been handed back and lost before
        attempts.record_outcome(session, _claimed(database, sent), Failed("no luck", after=LEASE))
    with engine.begin() as connection:
        before = "UPDATE steps SET attempt = 4, forgiven = 2, losses = 1"
        connection.execute(text(before))

    cause = _explain(client, run)[1]["s1"]

    assert cause["about"]["attempt"] == 5
    assert cause["text"].startswith("try 2 of 2 is due at ")


def test_a_cancel_names_running_steps_and_an_end_its_state(
    client: FlaskClient, database: Database, sent: list[Outbound]
) -> None:
    run = a_run(database, CHAIN)
    claim = _claimed(database, sent)
    with database.transaction() as session:
        runs.cancel(session, run.tenant_id, run.id, grace=GRACE, reason="enough")

    cause, steps = _explain(client, run)
    assert cause["code"] == steps["s1"]["code"] == "cancelling"
    assert (cause["about"]["steps"], cause["about"]["reason"]) == (["s1"], "enough")
    assert steps["s2"]["code"] == "ended"

    with database.transaction() as session:
        attempts.record_outcome(session, claim, Succeeded(1))
    cause, steps = _explain(client, run)
    assert (cause["code"], cause["text"]) == ("ended", "it has ended as cancelled")
    assert {step["code"] for step in steps.values()} == {"ended"}


# Combinations of a run of two steps: columns of the run, of its first and of its second step.
_RUNS = {
    f"{state}, {held}, {due}, {when}, {key}": (state, held, due, when, key)
    for state, held, due, when, key in product(
        RunState, (False, True), (False, True), ("NULL", "-", "+"), (None, "k")
    )
    if state == RunState.PENDING or (due and not held and when == "NULL" and key is None)
}
_STEPS = [
    "state = 'pending'", "state = 'queued', published_at = now()",
    "state = 'queued', published_at = NULL", "state = 'waiting', wake_at = NULL",
    "state = 'waiting', wake_at = now()", "state = 'running'", "state = 'succeeded'",
    "state = 'failed'", "state = 'skipped', skip_cause = 'upstream'", "state = 'cancelled'",
]  # fmt: skip
_SECOND = [_STEPS[0], _STEPS[6]]
# The reasons that hold a pending run do not depend on its steps, which have not begun.
_PENDING, _BEGUN = ("pending, False, True, NULL, None", (_STEPS[0], _STEPS[0]))
_CASES = [
    (row, first, second)
    for (name, row), first, second in product(_RUNS.items(), _STEPS, _SECOND)
    if row[0] != RunState.PENDING or name == _PENDING or (first, second) == _BEGUN
]
_PLAIN = ("published_at = NULL", "wake_at = NULL", "skip_cause = NULL", "attempt = 1")


def test_whatever_the_rows_say_there_is_a_cause_or_an_invariant_is_broken(
    database: Database, engine: Engine, sent: list[Outbound]
) -> None:
    run = a_run(database, CHAIN)
    _claimed(database, sent)
    unnamed, seen = set(), set()
    with Session(engine) as session:
        for row, first, second in _CASES:
            _put(session, run.id, row, first, second)
            explanation = runs.explain(
                session,
                run.tenant_id,
                run.id,
                window=WINDOW,
                alias=real_name,
                broker_answers=lambda: True,
            )
            open_steps = [step for step in explanation.steps if step.cause.code != CauseCode.ENDED]
            codes = {explanation.cause.code, *(step.cause.code for step in open_steps)}
            seen |= codes
            if CauseCode.UNKNOWN in codes and not checks.check_runs(
                session, [run.id], history=False
            ):
                unnamed.add((row, first, second))
        session.rollback()
    assert unnamed == set()
    assert seen >= {
        CauseCode.HELD,
        CauseCode.NEEDS,
        CauseCode.RETRY,
        CauseCode.RUN,
        CauseCode.CONCURRENCY_KEY,
    }


def _put(session: Session, run_id: UUID, row: tuple[Any, ...], first: str, second: str) -> None:
    """Write a combination straight into the rows."""
    state, held, due, when, key = row
    run_at = when if when == "NULL" else f"now() {when} interval '1 hour'"
    updates = [
        f"UPDATE runs SET state = :state, held = :held, due = :due, run_at = {run_at},"
        " concurrency_key = :key, stop_by = now(), finished_at = NULL WHERE id = :id",
        "UPDATE attempts SET outcome = NULL WHERE run_id = :id",
    ]
    for step, values in (("s1", first), ("s2", second)):
        plain = ", ".join(each for each in _PLAIN if each.split()[0] not in values)
        updates.append(f"UPDATE steps SET {values}, {plain} WHERE run_id = :id AND key = '{step}'")
    params = {"state": state, "held": held, "due": due, "key": key, "id": run_id}
    session.execute(text("; ".join(updates)), params)
