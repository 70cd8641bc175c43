"""Counts of runs by kind and state are exact whatever happens and whenever they are folded."""

import random
from concurrent.futures import ThreadPoolExecutor
from uuid import UUID

from sqlalchemy import text

from orchestrator.db.database import Database
from orchestrator.maintenance import sweeps
from orchestrator.models import Run
from orchestrator.monitoring import run_counts
from orchestrator.monitoring.run_counts import RunCountKey
from orchestrator.runs import (
    RetryMode,
    RetryRequest,
    RunFilter,
    cancellation,
    changes,
    listing,
    queries,
    retries,
)
from orchestrator.states import FINAL_RUNS, RunState
from tests.support.factories import GRACE, WINDOW, a_claim, a_run, a_schedule, a_spec, a_tenant

_COUNT = """
    SELECT state, count(*) AS runs FROM runs
    WHERE tenant_id = :tenant_id AND (CAST(:workflow AS text) IS NULL OR workflow = :workflow)
      AND (CAST(:schedule_id AS uuid) IS NULL OR schedule_id = CAST(:schedule_id AS uuid))
    GROUP BY state
"""
CHANGES = ("tally_changes", "backlog_changes")


def _check(database: Database, workflow: str | None = None, schedule_id: UUID | None = None) -> int:
    """Compare the tallies with a count of rows in the same snapshot; gives the total."""
    with database.transaction(snapshot=True) as session:
        tenant_id = a_tenant(session)
        kind = RunCountKey(workflow=workflow, schedule_id=schedule_id)
        counts = run_counts.counts_by_state(session, tenant_id, kind)
        params = {"tenant_id": tenant_id, "workflow": workflow, "schedule_id": schedule_id}
        expected = {row.state: row.runs for row in session.execute(text(_COUNT), params)}
    assert {str(state): runs for state, runs in counts.items() if runs} == expected
    return sum(counts.values())


def _cancel(database: Database, run: Run) -> None:
    with database.transaction() as session:
        cancellation.cancel(session, run.tenant_id, run.id, grace=GRACE)


def _reopen(database: Database, run: Run) -> None:
    with database.transaction() as session:
        request = RetryRequest(mode=RetryMode.FULL)
        retries.retry(session, run.tenant_id, run.id, request, window=WINDOW)


def _remove(database: Database, run: Run) -> None:
    with database.transaction() as session:
        changes.delete(session, run.tenant_id, run.id)


def test_they_follow_a_run_through_its_life(database: Database) -> None:
    run = a_run(database)
    other = a_run(database, a_spec("other"), window=0)
    _check(database)
    with database.transaction() as session:
        queued = queries.steps(session, run)[0]
    assert queued.task_id
    assert a_claim(database, queued.task_id)
    _check(database)
    _cancel(database, run)
    assert _check(database) == 2
    _cancel(database, other)
    with database.transaction() as session:
        tallied, waiting = (
            session.scalar(text(f"SELECT count(*) FROM {each}")) for each in CHANGES
        )
    assert min(tallied, waiting) > 0
    assert sweeps.fold_counters(database) == tallied + waiting
    _check(database)
    _reopen(database, other)
    _check(database)
    _cancel(database, other)
    _remove(database, other)

    assert _check(database) == 1
    assert _check(database, workflow="other") == 0
    assert _check(database, workflow="work") == 1


def test_runs_of_a_schedule_are_counted_apart(database: Database) -> None:
    schedule = a_schedule(database)
    a_run(database, schedule_id=schedule.id)
    a_run(database)

    assert _check(database, schedule_id=schedule.id) == 1
    assert _check(database) == 2


def test_they_are_exact_while_many_write_and_fold(database: Database) -> None:
    def write(seed: int) -> None:
        dice = random.Random(seed)
        for _ in range(8):
            run = a_run(database, a_spec(dice.choice("ab")), window=0)
            if dice.random() < 0.7:
                _cancel(database, run)
                dice.choice([_reopen, _remove, lambda *_: None])(database, run)
            sweeps.fold_counters(database)
            _check(database, dice.choice(["a", "b", None]))

    with ThreadPoolExecutor(4) as threads:
        for writer in [threads.submit(write, seed) for seed in range(4)]:
            writer.result()
    sweeps.fold_counters(database)
    _check(database)
    with database.transaction() as session:
        assert session.scalar(text("SELECT count(*) FROM tally_changes")) == 0


def test_a_list_is_counted_the_same_with_and_without_them(database: Database) -> None:
    made = [a_run(database, a_spec(name), window=0) for name in "aabbb"]
    _cancel(database, made[0])
    which = [
        RunFilter(),
        RunFilter(workflow=["a"]),
        RunFilter(workflow=["a", "b"]),
        RunFilter(workflow=["b"], state=[RunState.PENDING]),
        RunFilter(state=sorted(FINAL_RUNS)),
        RunFilter(project_id=made[0].project_id),
        RunFilter(tag=["none"]),
        RunFilter(created_after=made[1].created_at, state=[RunState.PENDING]),
    ]

    with database.transaction() as session:
        tenant_id = a_tenant(session)
        counted = [listing.count(session, tenant_id, each) for each in which]
        listed = [
            len(listing.page(session, tenant_id, each, listing.RunSort(), 100)) for each in which
        ]

    assert counted == listed == [5, 2, 5, 3, 1, 5, 0, 3]
