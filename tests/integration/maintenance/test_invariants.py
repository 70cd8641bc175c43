"""Each invariant is broken by hand, found by its own question only, and mended if it can be."""

import logging
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import NamedTuple
from uuid import UUID

import pytest
from sqlalchemy import Engine, text
from sqlalchemy.orm import Session

from config.settings import Settings
from orchestrator import runs, workflows
from orchestrator.broker.messages import Outbound
from orchestrator.db import journal, statements
from orchestrator.db.database import Database
from orchestrator.db.unit_of_work import unit_of
from orchestrator.engine import attempts
from orchestrator.engine.outcomes import Failed, Succeeded
from orchestrator.maintenance import checks, repair, sweeps
from orchestrator.maintenance.invariants import BY_NAME, INVARIANTS, RepairKind
from orchestrator.models import Project, Run, Tenant
from orchestrator.runs import RetryMode, RetryRequest, retry
from tests.support.factories import (
    GRACE,
    LEASE,
    WINDOW,
    a_claim,
    a_run,
    messages_in,
    the_events,
    the_run,
)
from workers.scheduler.main import Scheduler

_STEPS = [{"key": "s1", "uses": "noop", "retry": {"attempts": 3}}, {"key": "s2", "uses": "noop"}]
CHAIN = {"name": "chain", "steps": _STEPS}
OLD = "now() - interval '1 hour'"


class Case(NamedTuple):
    """How an invariant is broken, from where, and where the run is once it was mended."""

    start: str  # queued, running, ended, cancelling, held
    sql: str  # about the run :id
    after: str | None  # the run's state; None: nothing mends it


CASES = {
    "an ended run has an open step": Case(
        "ended", "UPDATE steps SET state = 'queued' WHERE run_id = :id AND key = 's2'", "succeeded"
    ),
    "a run that is being stopped has a step that could begin": Case(
        "cancelling",
        "UPDATE steps SET state = 'queued' WHERE run_id = :id AND key = 's2'",
        "cancelling",
    ),
    "a step has begun and its run has not": Case(
        "running", "UPDATE runs SET state = 'queued', started_at = NULL WHERE id = :id", "running"
    ),
    "a running step has no attempt that runs": Case(
        "running",
        "DELETE FROM attempts WHERE step_id IN (SELECT id FROM steps WHERE run_id = :id)",
        "running",
    ),
    "a running step's lease ran out long ago": Case(
        "running", f"UPDATE attempts SET lease_until = {OLD} WHERE run_id = :id", "running"
    ),
    "a step that was told to stop runs on for long": Case(
        "cancelling", f"UPDATE runs SET stop_by = {OLD} WHERE id = :id", "cancelled"
    ),
    "an attempt runs for a step that does not": Case(
        "ended", "UPDATE attempts SET outcome = NULL WHERE run_id = :id AND number = 1", "succeeded"
    ),
    "a step waits although all that it needs is there": Case(
        "queued", "UPDATE steps SET state = 'pending' WHERE run_id = :id AND key = 's1'", "queued"
    ),
    "a step needs what has failed for good": Case(
        "queued", "UPDATE steps SET state = 'failed' WHERE run_id = :id AND key = 's1'", "failed"
    ),
    "a step waits for no time": Case(
        "waiting", "UPDATE steps SET wake_at = NULL WHERE run_id = :id AND key = 's1'", "running"
    ),
    "a step's next attempt has been due for long": Case(
        "waiting", f"UPDATE steps SET wake_at = {OLD} WHERE run_id = :id AND key = 's1'", "running"
    ),
    "a run goes on without an open step": Case(
        "running",
        "UPDATE steps SET state = 'succeeded' WHERE run_id = :id;"
        " UPDATE attempts SET outcome = 'succeeded' WHERE run_id = :id",
        "succeeded",
    ),
    "a run goes on long after its timeout": Case(
        "running", f"UPDATE runs SET deadline_at = {OLD} WHERE id = :id", "cancelling"
    ),
    "a run waits and nothing holds it": Case(
        "held", "UPDATE runs SET held = false WHERE id = :id", "pending"
    ),
    "a run's start time came long ago": Case(
        "held", f"UPDATE runs SET held = false, run_at = {OLD} WHERE id = :id", "pending"
    ),
    "a run waits for a concurrency key that nobody holds": Case(
        "held",
        f"UPDATE runs SET held = false, concurrency_key = 'k', created_at = {OLD} WHERE id = :id",
        "pending",
    ),
    "work waits in a queue that no scheduler looks at": Case(
        "queued",
        "UPDATE steps SET published_at = NULL WHERE run_id = :id; DELETE FROM queues",
        "queued",
    ),
    "a run's last event is not the last number": Case(
        "ended", "UPDATE runs SET event_seq = event_seq + 1 WHERE id = :id", None
    ),
    "a run's events have a gap": Case(
        "ended", "DELETE FROM events WHERE run_id = :id AND seq = 3", None
    ),
    "a step is recorded as succeeded twice": Case(
        "ended",
        "INSERT INTO events (tenant_id, run_id, seq, type, step, attempt, data)"
        " SELECT tenant_id, id, event_seq + 1, 'step.succeeded', 's2', 1, '{}' FROM runs"
        " WHERE id = :id; UPDATE runs SET event_seq = event_seq + 1 WHERE id = :id",
        None,
    ),
    "a step starts after its run has ended": Case(
        "ended",
        "INSERT INTO events (tenant_id, run_id, seq, type, step, attempt, data)"
        " SELECT tenant_id, id, event_seq + 1, 'step.started', 's2', 2, '{}' FROM runs"
        " WHERE id = :id; UPDATE runs SET event_seq = event_seq + 1 WHERE id = :id",
        None,
    ),
}


def _started(database: Database, sent: list[Outbound], start: str) -> Run:
    """A run of two steps that has come so far."""
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


def _found(database: Database) -> dict[str, str | None]:
    """What is wrong anywhere, and with which step."""
    with database.transaction() as session:
        return {each.broken: each.step for each in checks.check_all_runs(session).findings}


def _mend(database: Database, run: Run) -> int:
    """As the scheduler does, and as `doctor --heal` does where another sweep looks for the runs."""
    mended = repair.repair_recent(database, repair.Rounds())
    with database.transaction() as session:
        return mended or len(repair.repair_run(session, run.id))


def test_every_invariant_is_broken_here() -> None:
    assert CASES.keys() == BY_NAME.keys()
    assert {BY_NAME[name].repair is None for name, case in CASES.items() if case.after} == {False}
    assert {BY_NAME[name].repair for name, case in CASES.items() if not case.after} == {None}
    assert {each.repair for each in INVARIANTS} - {None} == set(RepairKind) == set(repair.REPAIRERS)


@pytest.mark.parametrize("name", CASES)
def test_what_is_broken_by_hand_is_found_and_mended(
    database: Database,
    sent: list[Outbound],
    engine: Engine,
    caplog: pytest.LogCaptureFixture,
    name: str,
) -> None:
    case = CASES[name]
    run = _started(database, sent, case.start)
    assert _found(database) == {}
    _break(engine, run, case.sql)
    with engine.begin() as connection:  # what has just ended may still be on its way
        connection.execute(text("UPDATE runs SET finished_at = finished_at - interval '30 s'"))

    found = _found(database)
    mended = _mend(database, run)
    again = _mend(database, run)

    assert list(found) == [name]
    assert again == 0
    assert [each.message for each in caplog.records if each.levelno == logging.ERROR]
    if case.after is None:
        assert (mended, _found(database)) == (0, found)
        assert repair.REPAIRED_EVENT not in the_events(database, run)
    else:
        assert mended == 1
        assert _found(database) == {}
        assert the_run(database, run).state == case.after
        assert repair.REPAIRED_EVENT in the_events(database, run)


def test_a_healthy_busy_system_has_nothing_to_mend(
    database: Database, sent: list[Outbound], engine: Engine
) -> None:
    a_run(database, CHAIN, start=False)
    for _ in range(2):
        a_run(database, CHAIN, concurrency_key="k")
    for start in ("queued", "waiting", "cancelling", "ended", "running"):
        sent.clear()
        run = _started(database, sent, start)
    again = RetryRequest(mode=RetryMode.FULL)
    sent.clear()
    ended = _started(database, sent, "ended")
    with database.transaction() as session:
        retry(session, run.tenant_id, ended.id, again, window=WINDOW)
    a_run(database, CHAIN, window=0)
    a_run(database, CHAIN, run_at=datetime.now(UTC) + LEASE)

    assert _found(database) == {}
    assert _mend(database, run) == 0


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
    assert _found(database) == {}


def test_counts_that_do_not_add_up_are_found(database: Database, engine: Engine) -> None:
    run = a_run(database, CHAIN, window=0)
    sweeps.fold_counters(database)
    _break(engine, run, "UPDATE backlog SET runs = runs + 1; UPDATE tallies SET runs = runs + 1")

    assert sorted(_found(database)) == ["the backlog does not add up", "the tallies do not add up"]


def test_many_that_mend_at_once_mend_a_run_once(database: Database, engine: Engine) -> None:
    broken = [a_run(database, CHAIN) for _ in range(10)]
    for run in broken:
        _break(engine, run, "UPDATE steps SET state = 'pending' WHERE run_id = :id")
    whole = a_run(database, CHAIN)

    with ThreadPoolExecutor(4) as schedulers:
        mended = list(
            schedulers.map(lambda _: repair.repair_recent(database, repair.Rounds()), range(4))
        )

    assert sum(mended) == 10
    assert [the_events(database, run).count(repair.REPAIRED_EVENT) for run in broken] == [1] * 10
    assert repair.REPAIRED_EVENT not in the_events(database, whole)
    assert _found(database) == {}


@pytest.mark.parametrize("name", [each.broken for each in INVARIANTS if each.overdue])
def test_what_another_sweep_is_behind_with_is_left_to_it(
    database: Database, sent: list[Outbound], engine: Engine, name: str
) -> None:
    case = CASES[name]
    run = _started(database, sent, case.start)
    _break(engine, run, case.sql)
    assert list(_found(database)) == [name]

    assert repair.repair_recent(database, repair.Rounds()) == 0
    assert repair.REPAIRED_EVENT not in the_events(database, run)
    for sweep in (
        sweeps.rescue_expired,
        sweeps.wake_waiting_steps,
        sweeps.release_due_runs,
        sweeps.grant_free_keys,
    ):
        sweep(database)
    sweeps.expire_timed_out(database, GRACE)

    assert _found(database) == {}
    assert repair.REPAIRED_EVENT not in the_events(database, run)


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.after])
def test_a_remedy_is_told_once_and_by_its_right_name(
    database: Database, sent: list[Outbound], engine: Engine, name: str
) -> None:
    run = _started(database, sent, CASES[name].start)
    _break(engine, run, CASES[name].sql)

    with database.transaction() as session:
        healed = repair.repair_run(session, run.id)

    assert healed == [name]
    assert the_events(database, run).count(repair.REPAIRED_EVENT) == 1


def test_only_the_run_that_is_broken_is_touched(session: Session, tenant_id: UUID) -> None:
    other = Tenant(name="other")
    session.add(other)
    session.flush()
    session.add(Project(tenant_id=other.id, name="default"))
    session.flush()
    made = []
    for tenant in (tenant_id, other.id):
        workflows.register(session, tenant, CHAIN)
        new = runs.NewRun(workflow="chain")
        made.append(runs.submit(session, tenant, new, window=WINDOW)[0].id)
    journal.write_events(session)
    statements.flush_deferred(session)
    session.execute(text("UPDATE steps SET state = 'pending'"))

    healed = repair.repair_run(session, made[0])

    assert len(healed) == 1
    assert unit_of(session).events.keys() == {made[0]}
    assert checks.check_runs(session, made[:1], history=False) == []
    assert [each.run_id for each in checks.check_runs(session, made[1:])] == made[1:]


def test_a_run_that_somebody_holds_is_left_to_the_next_pass(
    database: Database, engine: Engine
) -> None:
    run = a_run(database, CHAIN)
    _break(engine, run, "UPDATE steps SET state = 'pending' WHERE run_id = :id")

    with engine.begin() as connection:
        connection.execute(text("SELECT FROM runs WHERE id = :id FOR UPDATE"), {"id": run.id})
        assert repair.repair_recent(database, repair.Rounds()) == 0

    assert repair.repair_recent(database, repair.Rounds()) == 1


def test_what_nothing_mends_is_said_once(
    database: Database, sent: list[Outbound], engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    run = _started(database, sent, "ended")
    _break(engine, run, "UPDATE runs SET event_seq = 99, finished_at = now() - interval '30 s'")
    rounds = repair.Rounds()

    for _ in range(3):
        repair.repair_recent(database, rounds)
        rounds.since = None

    said = [each for each in caplog.records if each.message == "broken"]
    assert [vars(each)["run_id"] for each in said] == [str(run.id)]


def test_a_pass_comes_around_to_every_run(
    database: Database, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(repair, "BATCH", 2)
    monkeypatch.setattr(repair, "MAX_SECONDS", 0)
    found = [a_run(database, CHAIN) for _ in range(5)]
    for run in found:
        _break(engine, run, "UPDATE steps SET state = 'pending' WHERE run_id = :id")
    rounds = repair.Rounds()

    assert [repair.repair_recent(database, rounds) for _ in range(4)] == [2, 2, 1, 0]


def test_the_scheduler_mends(database: Database, engine: Engine, settings: Settings) -> None:
    run = a_run(database, CHAIN)
    _break(engine, run, "UPDATE steps SET state = 'pending' WHERE run_id = :id")
    scheduler = Scheduler(settings)
    scheduler._last_pass.clear()  # repair waits for its first interval

    scheduler.sweep_once()

    assert repair.REPAIRED_EVENT in the_events(database, run)
