"""The sweeps: one idempotent pass each over rows that need something, and how many it moved.

Any number of schedulers may run them at once: a row that another one holds is left to it.
"""

import logging
from collections.abc import Callable, Sequence
from datetime import timedelta
from functools import partial
from typing import Any
from uuid import UUID

from sqlalchemy.exc import DBAPIError, TimeoutError
from sqlalchemy.orm import Session

from orchestrator import runs, schedules
from orchestrator.broker.client import Broker
from orchestrator.db import journal, statements, transitions
from orchestrator.db.database import Database
from orchestrator.db.engine import is_transient
from orchestrator.engine import admission, attempts, concurrency, leases, publishing
from orchestrator.maintenance import analyze as maintenance_analyze
from orchestrator.maintenance import due
from orchestrator.monitoring import backlog, run_counts, throughput, workers
from orchestrator.states import StepTransition

BATCH = 200
FIRINGS_BATCH = 100  # schedules, events or backfills of one pass: other sweeps have their turn
ADMIT_BATCH = 25  # schedules fired in one transaction
UNCLAIMED = timedelta(seconds=3)  # a message not claimed for so long may have been lost

_log = logging.getLogger(__name__)

_FALL_DUE = f"""
    UPDATE runs SET due = true WHERE id IN (
        SELECT id FROM runs WHERE state = 'pending' AND {due.RUNNABLE}
        LIMIT :limit FOR UPDATE SKIP LOCKED
    ) RETURNING id
"""
_BE_LATE = f"""
    UPDATE runs SET passed_sla = true WHERE id IN (
        SELECT id FROM runs WHERE late_at <= now() AND NOT passed_sla AND {due.BACKFILL_ADVANCES}
        LIMIT :limit FOR UPDATE SKIP LOCKED
    ) RETURNING id, late_at
"""
_TO_WAKE = """
    SELECT DISTINCT run_id FROM steps WHERE state = 'waiting' AND wake_at <= now() LIMIT :limit
"""
_LATE = (
    "SELECT id AS run_id FROM runs WHERE state = 'running' AND deadline_at <= now() LIMIT :limit"
)
# It may have ended meanwhile, and run again, with another deadline.
_STILL_LATE = """
    SELECT * FROM runs WHERE id = :id AND state = 'running' AND deadline_at <= now()
    FOR UPDATE SKIP LOCKED
"""
# In no order: several schedulers begin with different ones, and none is always the last.
# Those whose runs wait for nobody may share a transaction: it takes no lock that it waits for.
_DUE = """
    SELECT id, overlap IN ('allow', 'skip') AS together FROM schedules
    WHERE active AND fires_at <= now() ORDER BY random() LIMIT :limit
"""
_EVENTS = "SELECT id FROM firings WHERE outcome = 'waiting' ORDER BY id LIMIT :limit"
_BACKFILLS = "SELECT id FROM backfills WHERE state = 'running' ORDER BY random() LIMIT :limit"
# Not limited: many that wait for a worker must not hide one that is lost. The windows bound it.
_OWED = """
    SELECT id, run_id, task_id, queue FROM steps
    WHERE state = 'queued' AND published_at < now() - CAST(:unclaimed AS interval)
"""
_STILL_OWED = """
    SELECT * FROM steps WHERE id = ANY(:ids)
      AND state = 'queued' AND published_at < now() - CAST(:unclaimed AS interval)
"""


def due_sweeps(database: Database) -> set[str]:
    """Which sweeps have something to do, asked in one cheap statement."""
    with database.transaction() as session:
        found = statements.row(session, due.DUE_QUERY, unclaimed=UNCLAIMED)
    return {name for name, needed in found._mapping.items() if needed} if found else set()


def admit_waiting(database: Database, window: int) -> int:
    """Start what waits, as far as each queue's window has room, highest rank first."""
    started = 0
    with database.transaction() as session:
        names = admission.queues(session)
    for queue in names:
        with database.transaction() as session:
            room = admission.room(session, queue, window)
            if room > 0:
                steps, run_ids = admission.queues_with_work(session, queue, room)
                publishing.publish(session, steps)
                admission.admit_runs(session, run_ids)
                started += len(steps) + len(run_ids)
    return started


def release_due_runs(database: Database) -> int:
    """Let runs whose start time has come wait for admission."""
    with database.transaction() as session:
        return len(statements.rows(session, _FALL_DUE, limit=BATCH))


def grant_free_keys(database: Database) -> int:
    """Give concurrency keys that are free to the runs that wait for them."""
    with database.transaction() as session:
        waited_for = concurrency.free_keys(session, BATCH)
    return _each(database, waited_for, lambda session, each: concurrency.grant(session, *each))


def mark_late(database: Database) -> int:
    """Flag the runs whose SLA has passed; they go on."""
    with database.transaction() as session:
        late = statements.rows(session, _BE_LATE, limit=BATCH)
        for run in late:
            journal.record_event(session, run.id, "run.late", late_at=run.late_at)
        return len(late)


def wake_waiting_steps(database: Database) -> int:
    """Queue the steps whose retry is due."""
    return _each(database, _run_ids(database, _TO_WAKE), _wake_one)


def rescue_expired(database: Database, *, silent: bool = True) -> int:
    """Take steps away from workers that are gone, silent, or did not stop in time.

    Without `silent` only from the last ones: after an outage every lease has run out.
    """
    with database.transaction() as session:
        found = leases.expired_attempts(session, limit=BATCH, silent=silent)
    return _each(database, list(found.items()), _rescue_one)


def republish_lost(database: Database, broker: Broker) -> int:
    """Send messages again that are neither in the broker nor claimed."""
    with database.transaction() as session:
        owed = statements.rows(session, _OWED, unclaimed=UNCLAIMED)
    pending = {queue: broker.pending(queue) for queue in {row.queue for row in owed}}
    lost = [row for row in owed if _is_missing(row.task_id, pending[row.queue])][:BATCH]
    if not lost:
        return 0
    with database.transaction() as session:
        free = transitions.lock_unlocked_runs(session, {row.run_id for row in lost})
        ids = [row.id for row in lost if row.run_id in free]
        steps = statements.rows(session, _STILL_OWED, unclaimed=UNCLAIMED, ids=ids)
        publishing.publish(session, steps)
        return len(steps)


def expire_timed_out(database: Database, grace: timedelta) -> int:
    """Stop the runs whose deadline has passed."""

    def stop(session: Session, run_id: UUID) -> int:
        run = statements.row(session, _STILL_LATE, id=run_id)
        if run is not None:
            reason = "the run's timeout has passed"
            runs.stop_run(session, run, grace=grace, reason=reason, timed_out=True)
        return int(run is not None)

    return _each(database, _run_ids(database, _LATE), stop)


def fold_counters(database: Database) -> int:
    """Add up how the backlog and the tallies have changed."""
    with database.transaction() as session:
        return backlog.fold_backlog(session) + run_counts.fold_run_counts(session)


def analyze(database: Database) -> int:
    """Let Postgres look at the tables that have grown."""
    with database.transaction() as session:
        return maintenance_analyze.analyze(session)


def roll_up(database: Database) -> int:
    """Count what ended in the minutes that are over."""
    with database.transaction() as session:
        return throughput.roll_up(session)


def forget_old_rows(database: Database) -> int:
    """Remove the workers that have been gone for long."""
    with database.transaction() as session:
        return workers.forget_workers(session)


def fire(database: Database, limits: schedules.RunOptions) -> int:
    """Submit the runs of the schedules that are due."""

    def fire_one(session: Session, schedule_id: UUID) -> int:
        return schedules.fire(session, [schedule_id], limits)

    with database.transaction() as session:
        found = statements.rows(session, _DUE, limit=FIRINGS_BATCH)
    moved = 0
    together = [row.id for row in found if row.together]
    for first in range(0, len(together), ADMIT_BATCH):
        batch = together[first : first + ADMIT_BATCH]
        try:
            with database.transaction() as session:
                moved += schedules.fire(session, batch, limits)
        except Exception as error:
            _raise_if_transient(error)  # else one of them is wrong, and it is told below which
            moved += _each(database, batch, fire_one, schedules.refuse_firing)
    alone = [row.id for row in found if not row.together]
    return moved + _each(database, alone, fire_one, schedules.refuse_firing)


def fire_events(database: Database, limits: schedules.RunOptions) -> int:
    """Submit the runs that the end of another one starts."""
    fire_one = partial(schedules.fire_event, limits=limits)
    return _each(database, _ids(database, _EVENTS), fire_one, schedules.refuse_event)


def advance_backfills(database: Database, limits: schedules.RunOptions) -> int:
    """Submit the next runs of the backfills that have room."""
    go_on = partial(schedules.advance, limits=limits)
    return _each(database, _ids(database, _BACKFILLS), go_on, schedules.fail_backfill)


def _wake_one(session: Session, run_id: UUID) -> int:
    if not transitions.lock_unlocked_runs(session, [run_id]):
        return 0
    which, values = "run_id = :run_id AND wake_at <= now()", "wake_at = NULL, queued_at = now()"
    steps = transitions.move_steps(session, StepTransition.WAKE, which, values, run_id=run_id)
    publishing.publish(session, steps)
    return len(steps)


def _rescue_one(session: Session, found: tuple[str, leases.ExpiredAttempt]) -> int:
    task_id, expired = found
    free = transitions.lock_unlocked_runs(session, [expired.run_id])
    return int(bool(free) and attempts.end_lost_attempt(session, task_id) is not None)


def _each(
    database: Database,
    found: Sequence[Any],
    act: Callable[[Session, Any], int],
    refuse: Callable[[Session, Any, str], None] | None = None,
) -> int:
    """Act on each row in a transaction of its own; one that fails does not stop the others."""
    moved = 0
    for each in found:
        try:
            with database.transaction() as session:
                moved += act(session, each)
        except Exception as error:
            _raise_if_transient(error)
            _log.exception("a sweep failed at a row", extra={"row": str(each)})
            if refuse is not None:
                with database.transaction() as session:
                    refuse(session, each, schedules.error_text(error))
    return moved


def _raise_if_transient(error: Exception) -> None:
    if isinstance(error, DBAPIError | TimeoutError) and is_transient(error):
        raise error


def _ids(database: Database, which: str) -> list[Any]:
    with database.transaction() as session:
        return [row.id for row in statements.rows(session, which, limit=FIRINGS_BATCH)]


def _is_missing(task_id: str, pending: set[str] | None) -> bool:
    """Whether the broker answered, and does not have the message."""
    return pending is not None and task_id not in pending


def _run_ids(database: Database, sql: str) -> list[UUID]:
    with database.transaction() as session:
        return [row.run_id for row in statements.rows(session, sql, limit=BATCH)]
