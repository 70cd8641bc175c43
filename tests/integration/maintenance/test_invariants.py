"""Each invariant is violated by hand, and found by its own query only."""

from datetime import UTC, datetime
from typing import NamedTuple

import pytest
from sqlalchemy import Engine, text

from config.settings import Settings
from orchestrator import runs
from orchestrator.broker.messages import Outbound
from orchestrator.db.database import Database
from orchestrator.engine import attempts
from orchestrator.engine.outcomes import Failed, Succeeded
from orchestrator.maintenance import checks, sweeps
from orchestrator.maintenance.checks import LiveCheck
from orchestrator.maintenance.invariants import INVARIANTS, OVERDUE
from orchestrator.models import Run
from orchestrator.runs import RetryMode, RetryRequest, retry
from tests.support.factories import (
    GRACE,
    LEASE,
    WINDOW,
    a_claim,
    a_run,
    messages_in,
    the_run,
)
from workers.scheduler.main import Scheduler

_STEPS = [{"key": "s1", "uses": "noop", "retry": {"attempts": 3}}, {"key": "s2", "uses": "noop"}]
CHAIN = {"name": "chain", "steps": _STEPS}
OLD = "now() - interval '1 hour'"


class Case(NamedTuple):
    """How an invariant is violated."""

    start: str  # the state of the run before: queued, running, waiting, ended, cancelling, held
    sql: str  # statements on the run :id


CASES = {
    "an ended run has an open step": Case(
        "ended", "UPDATE steps SET state = 'queued' WHERE run_id = :id AND key = 's2'"
    ),
    "a run that is being stopped has a step that could begin": Case(
        "cancelling", "UPDATE steps SET state = 'queued' WHERE run_id = :id AND key = 's2'"
    ),
    "a step has begun and its run has not": Case(
        "running", "UPDATE runs SET state = 'queued', started_at = NULL WHERE id = :id"
    ),
    "a running step has no attempt that runs": Case(
        "running", "DELETE FROM attempts WHERE step_id IN (SELECT id FROM steps WHERE run_id = :id)"
    ),
    "a running step's lease ran out long ago": Case(
        "running", f"UPDATE attempts SET lease_until = {OLD} WHERE run_id = :id"
    ),
    "a step that was told to stop runs on for long": Case(
        "cancelling", f"UPDATE runs SET stop_by = {OLD} WHERE id = :id"
    ),
    "an attempt runs for a step that does not": Case(
        "ended", "UPDATE attempts SET outcome = NULL WHERE run_id = :id AND number = 1"
    ),
    "a step waits although all that it needs is there": Case(
        "queued", "UPDATE steps SET state = 'pending' WHERE run_id = :id AND key = 's1'"
    ),
    "a step needs what has failed for good": Case(
        "queued", "UPDATE steps SET state = 'failed' WHERE run_id = :id AND key = 's1'"
    ),
    "a step waits for no time": Case(
        "waiting", "UPDATE steps SET wake_at = NULL WHERE run_id = :id AND key = 's1'"
    ),
    "a step's next attempt has been due for long": Case(
        "waiting", f"UPDATE steps SET wake_at = {OLD} WHERE run_id = :id AND key = 's1'"
    ),
    "a run goes on without an open step": Case(
        "running",
        "UPDATE steps SET state = 'succeeded' WHERE run_id = :id;"
        " UPDATE attempts SET outcome = 'succeeded' WHERE run_id = :id",
    ),
    "a run goes on long after its timeout": Case(
        "running", f"UPDATE runs SET deadline_at = {OLD} WHERE id = :id"
    ),
    "a run waits and nothing holds it": Case("held", "UPDATE runs SET held = false WHERE id = :id"),
    "a run's start time came long ago": Case(
        "held", f"UPDATE runs SET held = false, run_at = {OLD} WHERE id = :id"
    ),
    "a run waits for a concurrency key that nobody holds": Case(
        "held",
        f"UPDATE runs SET held = false, concurrency_key = 'k', created_at = {OLD} WHERE id = :id",
    ),
    "work waits in a queue that no scheduler looks at": Case(
        "queued", "UPDATE steps SET published_at = NULL WHERE run_id = :id; DELETE FROM queues"
    ),
    "a run's last event is not the last number": Case(
        "ended", "UPDATE runs SET event_seq = event_seq + 1 WHERE id = :id"
    ),
    "a run's events have a gap": Case("ended", "DELETE FROM events WHERE run_id = :id AND seq = 3"),
    "a step is recorded as succeeded twice": Case(
        "ended",
        "INSERT INTO events (tenant_id, run_id, seq, type, step, attempt, data)"
        " SELECT tenant_id, id, event_seq + 1, 'step.succeeded', 's2', 1, '{}' FROM runs"
        " WHERE id = :id; UPDATE runs SET event_seq = event_seq + 1 WHERE id = :id",
    ),
    "a step starts after its run has ended": Case(
        "ended",
        "INSERT INTO events (tenant_id, run_id, seq, type, step, attempt, data)"
        " SELECT tenant_id, id, event_seq + 1, 'step.started', 's2', 2, '{}' FROM runs"
        " WHERE id = :id; UPDATE runs SET event_seq = event_seq + 1 WHERE id = :id",
    ),
}


def _started(database: Database, sent: list[Outbound], start: str) -> Run:
    """A run of two steps in this state."""
    if start == "held":
        return a_run(database, CHAIN, start=False)
    run = a_run(database, CHAIN)
    if start == "queued":
        return run
    (outgoing,) = [each for each in sent if each.messages]
    chain = messages_in([outgoing])
    for message in chain if start == "ended" else chain[:1]:
        claim = a_claim(database, message.task_id)
        assert claim is not None
        if start in ("ended", "waiting"):
            outcome = Succeeded(1) if start == "ended" else Failed("no", after=GRACE)
            follows = chain[1].task_id if message is chain[0] and start == "ended" else None
            with database.transaction() as session:
                attempts.record_outcome(session, claim, outcome, follows)
    if start == "cancelling":
        with database.transaction() as session:
            runs.cancel(session, run.tenant_id, run.id, grace=GRACE)
    return run


def _break(engine: Engine, run: Run, sql: str) -> None:
    with engine.begin() as connection:
        for each in sql.split("; "):
            connection.execute(text(each), {"id": run.id})


def _broken(database: Database) -> list[str]:
    """The violated invariants."""
    with database.transaction() as session:
        findings = checks.check_all_runs(session).findings
    return list(dict.fromkeys(each.broken for each in findings))


def test_every_invariant_is_violated_here() -> None:
    assert CASES.keys() == INVARIANTS.keys()


@pytest.mark.parametrize("name", CASES)
def test_what_is_broken_by_hand_is_found_and_logged_once(
    database: Database,
    sent: list[Outbound],
    engine: Engine,
    caplog: pytest.LogCaptureFixture,
    name: str,
) -> None:
    case = CASES[name]
    run = _started(database, sent, case.start)
    assert _broken(database) == []
    _break(engine, run, case.sql)
    with engine.begin() as connection:  # it is checked 20 s after its end
        connection.execute(text("UPDATE runs SET finished_at = finished_at - interval '30 s'"))
    check = LiveCheck()

    for _ in range(3):
        checks.check_live_runs(database, check)
        check.since = None

    assert _broken(database) == [name]
    records = [vars(each) for each in caplog.records if each.message == "invariant violated"]
    logged = [(each["broken"], each["run_id"], each["step"]) for each in records]
    assert len(logged) == len(set(logged))
    by_hand = set() if name in OVERDUE else {(name, str(run.id))}
    assert {each[:2] for each in logged} == by_hand


def test_a_healthy_busy_system_violates_no_invariant(
    database: Database, sent: list[Outbound]
) -> None:
    a_run(database, CHAIN, start=False)
    for _ in range(2):
        a_run(database, CHAIN, concurrency_key="k")
    for start in ("queued", "waiting", "cancelling", "ended", "running"):
        sent.clear()
        _started(database, sent, start)
    again = RetryRequest(mode=RetryMode.FULL)
    sent.clear()
    ended = _started(database, sent, "ended")
    with database.transaction() as session:
        retry(session, ended.tenant_id, ended.id, again, window=WINDOW)
    a_run(database, CHAIN, window=0)
    a_run(database, CHAIN, run_at=datetime.now(UTC) + LEASE)

    assert _broken(database) == []
    assert checks.check_live_runs(database, LiveCheck()) == 0


def test_a_step_that_succeeds_again_after_a_retry_is_not_recorded_twice(
    database: Database, sent: list[Outbound]
) -> None:
    run = _started(database, sent, "ended")
    sent.clear()
    with database.transaction() as session:
        retry(session, run.tenant_id, run.id, RetryRequest(mode=RetryMode.FULL), window=WINDOW)
    for message in messages_in(sent):
        claim = a_claim(database, message.task_id)
        if claim is not None:
            with database.transaction() as session:
                attempts.record_outcome(session, claim, Succeeded(2), messages_in(sent)[-1].task_id)

    assert the_run(database, run).state == "succeeded"
    assert _broken(database) == []


def test_counts_that_do_not_add_up_are_found(database: Database, engine: Engine) -> None:
    run = a_run(database, CHAIN, window=0)
    sweeps.fold_counters(database)
    _break(engine, run, "UPDATE backlog SET runs = runs + 1; UPDATE tallies SET runs = runs + 1")

    assert sorted(_broken(database)) == ["the backlog does not add up", "the tallies do not add up"]


@pytest.mark.parametrize("name", OVERDUE)
def test_what_is_overdue_is_ended_by_its_sweep(
    database: Database, sent: list[Outbound], engine: Engine, name: str
) -> None:
    case = CASES[name]
    run = _started(database, sent, case.start)
    _break(engine, run, case.sql)
    assert _broken(database) == [name]

    for sweep in (
        sweeps.rescue_expired,
        sweeps.wake_waiting_steps,
        sweeps.release_due_runs,
        sweeps.grant_free_keys,
    ):
        sweep(database)
    sweeps.expire_timed_out(database, GRACE)

    assert _broken(database) == []


def test_passes_over_the_live_runs_come_to_every_run(
    database: Database, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checks, "LIVE_BATCH", 2)
    monkeypatch.setattr(checks, "MAX_SECONDS", 0)
    for run in [a_run(database, CHAIN) for _ in range(5)]:
        _break(engine, run, "UPDATE steps SET state = 'pending' WHERE run_id = :id")
    check = LiveCheck()

    assert [checks.check_live_runs(database, check) for _ in range(4)] == [2, 2, 1, 0]


def test_the_scheduler_checks_the_live_runs(
    database: Database,
    engine: Engine,
    settings: Settings,
    caplog: pytest.LogCaptureFixture,
) -> None:
    run = a_run(database, CHAIN)
    _break(engine, run, "UPDATE steps SET state = 'pending' WHERE run_id = :id")
    scheduler = Scheduler(settings)
    scheduler._last_pass.clear()  # the check waits for its first interval

    scheduler.sweep_once()

    assert "invariant violated" in [each.message for each in caplog.records]
