"""The sweeps: one idempotent pass each over rows that need something, and how many it moved.

Any number of schedulers may run them at once: a row that another one holds is left to it.
"""

from datetime import timedelta
from uuid import UUID

from orchestrator import events, execution, flow, limits, runs, store
from orchestrator.broker import Broker
from orchestrator.db import Database
from orchestrator.states import RunState, StepTransition

BATCH = 200
UNCLAIMED = timedelta(seconds=3)  # a message not claimed for so long may have been lost

_LOOK = """
    SELECT
      EXISTS (SELECT FROM runs WHERE state = 'pending' AND due) OR
      EXISTS (SELECT FROM steps WHERE state = 'queued' AND published_at IS NULL) AS admit,
      EXISTS (SELECT FROM runs WHERE state = 'pending' AND NOT due AND run_at <= now()
              AND NOT held AND concurrency_key IS NULL) AS fall_due,
      EXISTS (SELECT FROM runs WHERE concurrency_key IS NOT NULL
              AND state = 'pending' AND NOT due AND NOT held) AS pass_on,
      EXISTS (SELECT FROM runs WHERE late_at <= now() AND NOT passed_sla
              AND state IN ('pending', 'queued', 'running', 'cancelling')) AS be_late,
      EXISTS (SELECT FROM steps WHERE state = 'waiting' AND wake_at <= now()) AS wake,
      EXISTS (SELECT FROM attempts WHERE outcome IS NULL
              AND (lease_until < now() OR kill_at < now() - interval '2 s')) OR
      EXISTS (SELECT FROM runs WHERE state = 'cancelling'
              AND stop_by < now() - interval '1 s') AS rescue,
      EXISTS (SELECT FROM steps WHERE state = 'queued'
              AND published_at < now() - CAST(:unclaimed AS interval)) AS republish,
      EXISTS (SELECT FROM runs WHERE state = 'running' AND deadline_at <= now()) AS expire
"""

_FALL_DUE = """
    UPDATE runs SET due = true WHERE id IN (
        SELECT id FROM runs WHERE state = 'pending' AND NOT due AND run_at <= now()
          AND NOT held AND concurrency_key IS NULL
        LIMIT :limit FOR UPDATE SKIP LOCKED
    ) RETURNING id
"""
_BE_LATE = """
    UPDATE runs SET passed_sla = true WHERE id IN (
        SELECT id FROM runs WHERE late_at <= now() AND NOT passed_sla
          AND state IN ('pending', 'queued', 'running', 'cancelling')
        LIMIT :limit FOR UPDATE SKIP LOCKED
    ) RETURNING id, late_at
"""
_TO_WAKE = """
    SELECT DISTINCT run_id FROM steps WHERE state = 'waiting' AND wake_at <= now() LIMIT :limit
"""
_LATE = (
    "SELECT id AS run_id FROM runs WHERE state = 'running' AND deadline_at <= now() LIMIT :limit"
)
# Not limited: many that wait for a worker must not hide one that is lost. The windows bound it.
_OWED = """
    SELECT id, run_id, task_id, queue FROM steps
    WHERE state = 'queued' AND published_at < now() - CAST(:unclaimed AS interval)
"""
_STILL_OWED = """
    SELECT * FROM steps WHERE id = ANY(:ids)
      AND state = 'queued' AND published_at < now() - CAST(:unclaimed AS interval)
"""


def look(database: Database) -> set[str]:
    """Which sweeps have something to do, asked in one cheap statement."""
    with database.transaction() as session:
        found = store.row(session, _LOOK, unclaimed=UNCLAIMED)
    return {name for name, needed in found._mapping.items() if needed} if found else set()


def admit(database: Database, window: int) -> int:
    """Start what waits, as far as each queue's window has room, highest rank first."""
    started = 0
    with database.transaction() as session:
        names = flow.queues(session)
    for queue in names:
        with database.transaction() as session:
            room = flow.room(session, queue, window)
            if room > 0:
                steps, run_ids = flow.waiting_work(session, queue, room)
                flow.publish(session, steps)
                flow.admit(session, run_ids)
                started += len(steps) + len(run_ids)
    return started


def fall_due(database: Database) -> int:
    """Let runs whose start time has come wait for admission."""
    with database.transaction() as session:
        return len(store.rows(session, _FALL_DUE, limit=BATCH))


def pass_on(database: Database) -> int:
    """Give concurrency keys that are free to the runs that wait for them."""
    with database.transaction() as session:
        return limits.pass_on_all(session, BATCH)


def be_late(database: Database) -> int:
    """Flag the runs whose SLA has passed; they go on."""
    with database.transaction() as session:
        late = store.rows(session, _BE_LATE, limit=BATCH)
        for run in late:
            events.note(session, run.id, "run.late", late_at=run.late_at)
        return len(late)


def wake(database: Database) -> int:
    """Queue the steps whose retry is due."""
    woken = 0
    for run_id in _run_ids(database, _TO_WAKE):
        with database.transaction() as session:
            if store.lock_free(session, [run_id]):
                which = "run_id = :run_id AND wake_at <= now()"
                values = "wake_at = NULL, queued_at = now()"
                steps = store.move_steps(session, StepTransition.WAKE, which, values, run_id=run_id)
                flow.publish(session, steps)
                woken += len(steps)
    return woken


def rescue(database: Database) -> int:
    """Take steps away from workers that are gone, silent, or did not stop in time."""
    with database.transaction() as session:
        found = execution.expired(session, limit=BATCH)
    rescued = 0
    for task_id, expired in found.items():
        with database.transaction() as session:
            if store.lock_free(session, [expired.run_id]):
                rescued += execution.lose(session, task_id) is not None
    return rescued


def republish(database: Database, broker: Broker) -> int:
    """Send messages again that are neither in the broker nor claimed."""
    with database.transaction() as session:
        owed = store.rows(session, _OWED, unclaimed=UNCLAIMED)
    pending = {queue: broker.pending(queue) for queue in {row.queue for row in owed}}
    lost = [row for row in owed if _is_missing(row.task_id, pending[row.queue])][:BATCH]
    if not lost:
        return 0
    with database.transaction() as session:
        free = store.lock_free(session, {row.run_id for row in lost})
        ids = [row.id for row in lost if row.run_id in free]
        steps = store.rows(session, _STILL_OWED, unclaimed=UNCLAIMED, ids=ids)
        flow.publish(session, steps)
        return len(steps)


def expire(database: Database, grace: timedelta) -> int:
    """Stop the runs whose deadline has passed."""
    stopped = 0
    for run_id in _run_ids(database, _LATE):
        with database.transaction() as session:
            free = store.lock_free(session, [run_id])
            run = store.lock_run(session, run_id) if free else None
            if run is not None and run.state == RunState.RUNNING:
                reason = "the run's timeout has passed"
                runs.stop(session, run, grace=grace, reason=reason, timed_out=True)
                stopped += 1
    return stopped


def _is_missing(task_id: str, pending: set[str] | None) -> bool:
    """Whether the broker answered, and does not have the message."""
    return pending is not None and task_id not in pending


def _run_ids(database: Database, sql: str) -> list[UUID]:
    with database.transaction() as session:
        return [row.run_id for row in store.rows(session, sql, limit=BATCH)]
