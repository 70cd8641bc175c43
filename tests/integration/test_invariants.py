"""Each invariant is broken by hand, found by its own question only, and mended if it can be."""

import logging
from typing import NamedTuple

import pytest
from sqlalchemy import Engine, text

from orchestrator import execution, findings, healing, runs
from orchestrator.db import Database
from orchestrator.invariants import BY_NAME, INVARIANTS, Repair
from orchestrator.messages import Outgoing
from orchestrator.models import Run
from orchestrator.outcomes import Failed, Succeeded
from tests.factories import (
    GRACE,
    a_claim,
    a_run,
    messages_in,
    the_events,
    the_run,
)

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


def _started(database: Database, sent: list[Outgoing], start: str) -> Run:
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
                execution.record(session, claim, outcome, follows)
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
        return {each.broken: each.step for each in findings.find_all(session).findings}


def _mend(database: Database, run: Run) -> int:
    """As the scheduler does, and as `doctor --heal` does where another sweep looks for the runs."""
    mended = healing.sweep(database, healing.Rounds())
    with database.transaction() as session:
        return mended or len(healing.heal(session, run.id))


def test_every_invariant_is_broken_here() -> None:
    assert CASES.keys() == BY_NAME.keys()
    assert {BY_NAME[name].repair is None for name, case in CASES.items() if case.after} == {False}
    assert {BY_NAME[name].repair for name, case in CASES.items() if not case.after} == {None}
    assert {each.repair for each in INVARIANTS} - {None} == set(Repair) == set(healing.MENDS)


@pytest.mark.parametrize("name", CASES)
def test_what_is_broken_by_hand_is_found_and_mended(
    database: Database,
    sent: list[Outgoing],
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
        assert healing.EVENT not in the_events(database, run)
    else:
        assert mended == 1
        assert _found(database) == {}
        assert the_run(database, run).state == case.after
        assert healing.EVENT in the_events(database, run)
