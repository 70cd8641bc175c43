"""The sweeps: each is one idempotent pass over rows that are due, and returns how many it moved.

A pass takes a bounded number of rows, tenants in turn, and begins nothing more after its `seconds`:
the rest is due in the next one. So no sweep and no tenant delays the others for long.
Any number of schedulers run them concurrently: rows that are locked elsewhere are skipped.
`SWEEPS` declares each one: its function, the rows that make it due, the pause between two passes.
"""

import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Any, NamedTuple, TypeVar
from uuid import UUID

from sqlalchemy.orm import Session

from orchestrator import audit, runs, schedules
from orchestrator.broker.client import Broker
from orchestrator.db import Row, journal, statements, transitions
from orchestrator.db.database import Database
from orchestrator.db.engine import is_transient
from orchestrator.engine import admission, attempts, concurrency, leases, publishing
from orchestrator.maintenance import checks
from orchestrator.monitoring import backlog, run_counts, throughput, workers
from orchestrator.states import StepTransition

MAX_SECONDS = 0.1  # of a pass of a scheduler, after its look for what is due
BATCH = 200  # rows of one pass
MAX_QUEUES = 1000  # whose messages one pass compares with the broker's
QUEUES_BATCH = 20  # queues whose messages are compared with the broker's at once
FIRE_BATCH = 25  # schedules fired in one transaction
UNCLAIMED = timedelta(seconds=3)  # a message not claimed for this long may have been lost

_log = logging.getLogger(__name__)
Item = TypeVar("Item")
_in_turn = statements.in_turn

_MAY_BE_LOST = "state = 'queued' AND published_at < now() - CAST(:unclaimed AS interval)"
_IS_LIVE = "state IN ('pending', 'queued', 'running', 'cancelling')"
_START_TIME_PASSED = "NOT due AND run_at <= now() AND NOT held AND concurrency_key IS NULL"
_BECOMES_DUE = f"state = 'pending' AND {_START_TIME_PASSED}"
_RELEASE_DUE = f"""
    UPDATE runs SET due = true WHERE id IN (
        SELECT id FROM runs WHERE {_BECOMES_DUE}
          AND id = ANY(ARRAY({_in_turn("id", "runs", _BECOMES_DUE)}))
        FOR UPDATE SKIP LOCKED
    ) RETURNING id
"""
_BECOMES_LATE = f"late_at <= now() AND NOT passed_sla AND {_IS_LIVE}"
_MARK_LATE = f"""
    UPDATE runs SET passed_sla = true WHERE id IN (
        SELECT id FROM runs WHERE {_BECOMES_LATE}
          AND id = ANY(ARRAY({_in_turn("id", "runs", _BECOMES_LATE)}))
        FOR UPDATE SKIP LOCKED
    ) RETURNING id, late_at
"""
_STEPS_TO_WAKE = _in_turn("id", "steps", "state = 'waiting' AND wake_at <= now()")
_RETRY_DUE = f"SELECT id, run_id FROM steps WHERE id = ANY(ARRAY({_STEPS_TO_WAKE}))"
_TIMED_OUT = _in_turn("id", "runs", "state = 'running' AND deadline_at <= now()")
# Checked again under the lock: the run may have ended and been retried with another deadline.
_STILL_TIMED_OUT = """
    SELECT * FROM runs WHERE id = :id AND state = 'running' AND deadline_at <= now()
    FOR UPDATE SKIP LOCKED
"""
_SCHEDULE_DUE = "active AND fires_at <= now() AND overlap"
_SCHEDULES_ALONE = _in_turn("id", "schedules", f"{_SCHEDULE_DUE} NOT IN ('allow', 'skip')")
# These overlap policies take no lock that another transaction may hold, so that several schedules
# can share one transaction.
_SCHEDULES_TOGETHER = _in_turn("id", "schedules", f"{_SCHEDULE_DUE} IN ('allow', 'skip')")
_EVENTS_DUE = _in_turn("id", "firings", "outcome = 'waiting'")
_BACKFILLS_DUE = _in_turn("id", "backfills", "state = 'running'")
_UNSURE_QUEUES = _in_turn(
    "name",
    "queue_uses",
    statements.exist("steps", f"queue = queue_uses.name AND {_MAY_BE_LOST}", "queue"),
)
# Without LIMIT: many steps that wait for a worker must not hide a lost one. The windows bound it.
_UNCLAIMED_STEPS = f"""
    SELECT id, run_id, task_id, queue FROM steps
    WHERE queue = ANY(CAST(:queues AS text[])) AND {_MAY_BE_LOST}
"""
_STILL_UNCLAIMED = f"SELECT * FROM steps WHERE id = ANY(:ids) AND {_MAY_BE_LOST}"
# A table without statistics (reltuples is -1) counts as 500 rows.
_GROWN_TABLES = """
    SELECT CAST(CAST(relid AS regclass) AS text) AS name
    FROM pg_stat_user_tables JOIN pg_class ON pg_class.oid = relid
    WHERE schemaname = current_schema() AND n_live_tup > 2 * greatest(reltuples, 500)
    ORDER BY n_live_tup / greatest(reltuples, 500) DESC LIMIT 1
"""


class DueRows(NamedTuple):
    """Rows that make a sweep due; `order` is the first column of their partial index."""

    table: str
    where: str
    order: str

    @property
    def exist(self) -> str:
        """SQL for whether there are any."""
        return statements.exist(*self)


@dataclass(frozen=True)
class SweepContext:
    """What the sweeps need of the scheduler that runs them."""

    database: Database
    broker: Broker
    options: schedules.RunOptions
    check: checks.LiveCheck  # where the check of the invariants goes on
    deliver: Callable[[], int]  # hands due deliveries to the senders; returns how many
    leases_count: Callable[[], bool]  # False right after an outage, when every lease has expired
    seconds: float = math.inf  # of one pass


@dataclass(frozen=True)
class Sweep:
    """One sweep; without `due` rows it is due after each interval."""

    name: str
    run: Callable[[SweepContext], int]  # returns how many rows it moved
    due: Sequence[DueRows] = ()
    interval: float = 0.0  # seconds between two passes of one scheduler, at least


def due_sweeps(database: Database) -> set[str]:
    """The names of the sweeps that have rows, from one statement."""
    with database.transaction() as session:
        row = statements.row(session, _DUE_QUERY, unclaimed=UNCLAIMED)
    return {name for name, is_due in row._mapping.items() if is_due} if row else set()


def admit_waiting(database: Database, window: int, seconds: float = math.inf) -> int:
    """Publish steps and admit runs while each queue's window has room, highest rank first."""
    with database.transaction() as session:
        queues = admission.queues_with_work(session, BATCH)
    return _each(database, queues, partial(_admit, window=window), seconds=seconds)


def release_due_runs(database: Database) -> int:
    """Make runs whose start time has passed due for admission."""
    with database.transaction() as session:
        return len(statements.rows(session, _RELEASE_DUE, limit=BATCH))


def grant_free_keys(database: Database, seconds: float = math.inf) -> int:
    """Grant free concurrency keys to the runs that wait for them."""
    with database.transaction() as session:
        keys = concurrency.free_keys(session, BATCH)

    def grant(session: Session, key: tuple[UUID, str]) -> int:
        return concurrency.grant(session, *key)

    return _each(database, keys, grant, seconds=seconds)


def mark_late(database: Database) -> int:
    """Flag the live runs whose SLA has passed."""
    with database.transaction() as session:
        rows = statements.rows(session, _MARK_LATE, limit=BATCH)
        for run in rows:
            journal.record_event(session, run.id, "run.late", late_at=run.late_at)
        return len(rows)


def wake_waiting_steps(database: Database) -> int:
    """Queue the steps whose retry is due; admission publishes them, when the window has room."""
    with database.transaction() as session:
        waiting = statements.rows(session, _RETRY_DUE, limit=BATCH)
        free = transitions.lock_unlocked_runs(session, {step.run_id for step in waiting})
        ids = [step.id for step in waiting if step.run_id in free]
        woken = transitions.steps(session, StepTransition.WAKE)
        woken = woken.where("id = ANY(CAST(:ids AS uuid[])) AND wake_at <= now()", ids=ids)
        return len(woken.set("wake_at = NULL, queued_at = now()").all())


def rescue_expired(database: Database, seconds: float = math.inf, *, silent: bool = True) -> int:
    """End the attempts of workers that are gone or silent, or that outlived their stop deadline.

    Without `silent` only the latter: after an outage every lease has expired.
    """
    with database.transaction() as session:
        expired = leases.expired_attempts(session, limit=BATCH, silent=silent)
    return _each(database, expired, _rescue_one, seconds=seconds)


def republish_lost(database: Database, broker: Broker, seconds: float = math.inf) -> int:
    """Publish steps again whose message is neither in the broker nor claimed."""
    params = {"unclaimed": UNCLAIMED, "limit": MAX_QUEUES}
    with database.transaction() as session:
        queues = [row.name for row in statements.rows(session, _UNSURE_QUEUES, **params)]
    some = [queues[at : at + QUEUES_BATCH] for at in range(0, len(queues), QUEUES_BATCH)]
    return sum(_republish(database, broker, each) for each in _within(seconds, some))


def _republish(database: Database, broker: Broker, queues: Sequence[str]) -> int:
    params = {"unclaimed": UNCLAIMED, "queues": list(queues)}
    with database.transaction() as session:
        unclaimed = statements.rows(session, _UNCLAIMED_STEPS, **params)
    lost = without_message(unclaimed, broker)[:BATCH]
    if not lost:
        return 0
    with database.transaction() as session:
        free = transitions.lock_unlocked_runs(session, {row.run_id for row in lost})
        ids = [row.id for row in lost if row.run_id in free]
        steps = statements.rows(session, _STILL_UNCLAIMED, unclaimed=UNCLAIMED, ids=ids)
        publishing.publish(session, steps)
        return len(steps)


def without_message(steps: Sequence[Row], broker: Broker) -> list[Row]:
    """Those of the published steps whose message the broker answers that it does not have."""
    pending = broker.pending({step.queue for step in steps})
    if pending is None:
        return []
    return [step for step in steps if step.task_id not in pending[step.queue]]


def expire_timed_out(database: Database, grace: timedelta, seconds: float = math.inf) -> int:
    """Stop the runs whose deadline has passed."""

    def stop(session: Session, run_id: UUID) -> int:
        run = statements.row(session, _STILL_TIMED_OUT, id=run_id)
        if run is not None:
            reason = "the run's timeout has passed"
            runs.stop_run(session, run, grace=grace, reason=reason, timed_out=True)
        return int(run is not None)

    return _each(database, _ids(database, _TIMED_OUT), stop, seconds=seconds)


def fold_counters(database: Database) -> int:
    """Fold the appended changes of the backlog and of the run counts."""
    with database.transaction() as session:
        return backlog.fold_backlog(session) + run_counts.fold_run_counts(session)


def analyze(database: Database) -> int:
    """ANALYZE the table that has grown most since its last statistics, if it has doubled.

    A plan that was cached while a table was small may scan it for each run when it has grown.
    Autovacuum comes once a minute; a batch of runs takes a few seconds.
    """
    with database.transaction() as session:
        table = statements.row(session, _GROWN_TABLES)
        if table is not None:
            session.connection().exec_driver_sql(f"ANALYZE (SKIP_LOCKED) {table.name}")
        return int(table is not None)


def link_audit(database: Database) -> int:
    """Number and chain the entries of the audit log that are not."""
    with database.transaction() as session:
        return audit.link(session)


def roll_up(database: Database) -> int:
    """Aggregate the runs that ended, by minute."""
    with database.transaction() as session:
        return throughput.roll_up(session)


def forget_old_rows(database: Database) -> int:
    """Delete workers that were not seen for a day."""
    with database.transaction() as session:
        return workers.forget_workers(session)


def fire(database: Database, options: schedules.RunOptions, seconds: float = math.inf) -> int:
    """Submit the runs of the schedules that are due."""

    def fire_one(session: Session, schedule_id: UUID) -> int:
        return schedules.fire(session, [schedule_id], options)

    moved, together = 0, _ids(database, _SCHEDULES_TOGETHER)
    some = [together[at : at + FIRE_BATCH] for at in range(0, len(together), FIRE_BATCH)]
    for batch in _within(seconds, some):
        try:
            with database.transaction() as session:
                moved += schedules.fire(session, batch, options)
        except Exception as error:
            if is_transient(error):
                raise
            # One of them is wrong: fire them one by one to refuse only that one.
            moved += _each(database, batch, fire_one, schedules.refuse_firing, seconds=seconds)
    alone = _ids(database, _SCHEDULES_ALONE)
    return moved + _each(database, alone, fire_one, schedules.refuse_firing, seconds=seconds)


def fire_events(
    database: Database, options: schedules.RunOptions, seconds: float = math.inf
) -> int:
    """Submit the runs of schedules that wait for the end of another run."""
    fire_one = partial(schedules.fire_event, limits=options)
    waiting = _ids(database, _EVENTS_DUE)
    return _each(database, waiting, fire_one, schedules.refuse_event, seconds=seconds)


def advance_backfills(
    database: Database, options: schedules.RunOptions, seconds: float = math.inf
) -> int:
    """Submit the next runs of the backfills that have room."""
    advance = partial(schedules.advance, limits=options)
    running = _ids(database, _BACKFILLS_DUE)
    return _each(database, running, advance, schedules.fail_backfill, seconds=seconds)


def _admit(session: Session, queue: str, window: int) -> int:
    room = admission.room(session, queue, window)
    if room <= 0:
        return 0
    steps, run_ids = admission.next_work(session, queue, room)
    publishing.publish(session, steps)
    admission.admit_runs(session, run_ids)
    return len(steps) + len(run_ids)


def _rescue_one(session: Session, expired: Row) -> int:
    free = transitions.lock_unlocked_runs(session, [expired.run_id])
    return int(bool(free) and attempts.end_lost_attempt(session, expired.task_id) is not None)


def _each(
    database: Database,
    items: Sequence[Any],
    act: Callable[[Session, Any], int],
    refuse: Callable[[Session, Any, str], None] | None = None,
    *,
    seconds: float,
) -> int:
    """Act on each item in a transaction of its own; one that fails does not stop the others."""
    moved = 0
    for each in _within(seconds, items):
        try:
            with database.transaction() as session:
                moved += act(session, each)
        except Exception as error:
            if is_transient(error):
                raise
            _log.exception("sweep failed for a row", extra={"row": str(each)})
            if refuse is not None:
                with database.transaction() as session:
                    refuse(session, each, schedules.error_text(error))
    return moved


def _within(seconds: float, items: Iterable[Item]) -> Iterator[Item]:
    """The items, at least one, until the seconds have passed."""
    until = time.monotonic() + seconds
    for each in items:
        yield each
        if time.monotonic() > until:
            return


def _ids(database: Database, statement: str) -> list[Any]:
    with database.transaction() as session:
        return [row.id for row in statements.rows(session, statement, limit=BATCH)]


# In this order: what makes work due goes before what starts it.
# fmt: off
SWEEPS = (
    Sweep("release_due_runs", lambda its: release_due_runs(its.database),
          [DueRows("runs", _BECOMES_DUE, "run_at")]),
    Sweep("grant_free_keys", lambda its: grant_free_keys(its.database, its.seconds),
          [DueRows("runs", f"concurrency_key IS NOT NULL AND {concurrency.WAITS_FOR_KEY}",
                   "workflow_id")], interval=2.0),
    Sweep("mark_late", lambda its: mark_late(its.database),
          [DueRows("runs", _BECOMES_LATE, "late_at")]),
    Sweep("rescue_expired", lambda its: rescue_expired(
        its.database, its.seconds, silent=its.leases_count()
    ), [
        DueRows("attempts", "outcome IS NULL AND lease_until < now()", "step_id"),
        DueRows("attempts", "outcome IS NULL AND kill_at < now() - interval '2 s'", "step_id"),
        DueRows("runs", "state = 'cancelling' AND stop_by < now() - interval '1 s'", "id"),
    ], interval=0.3),
    Sweep("fire", lambda its: fire(its.database, its.options, its.seconds),
          [DueRows("schedules", "active AND fires_at <= now()", "fires_at")]),
    Sweep("fire_events", lambda its: fire_events(its.database, its.options, its.seconds),
          [DueRows("firings", "outcome = 'waiting'", "id")]),
    Sweep("advance_backfills",
          lambda its: advance_backfills(its.database, its.options, its.seconds),
          [DueRows("backfills", "state = 'running'", "id")], interval=0.5),
    Sweep("expire_timed_out",
          lambda its: expire_timed_out(its.database, its.options.grace, its.seconds),
          [DueRows("runs", "state = 'running' AND deadline_at <= now()", "deadline_at")]),
    Sweep("wake_waiting_steps", lambda its: wake_waiting_steps(its.database),
          [DueRows("steps", "state = 'waiting' AND wake_at <= now()", "wake_at")]),
    Sweep("republish_lost", lambda its: republish_lost(its.database, its.broker, its.seconds),
          [DueRows("steps", _MAY_BE_LOST, "queue")], interval=0.5),
    Sweep("admit_waiting",
          lambda its: admit_waiting(its.database, its.options.window, its.seconds), [
        DueRows("runs", "state = 'pending' AND due", "queue"),
        DueRows("steps", "state = 'queued' AND published_at IS NULL", "queue"),
    ]),
    Sweep("deliver", lambda its: its.deliver(),
          [DueRows("deliveries", "state = 'waiting' AND next_at <= now()", "next_at")],
          interval=0.1),
    Sweep("fold_counters", lambda its: fold_counters(its.database),
          [DueRows("backlog_changes", "true", "id"), DueRows("tally_changes", "true", "id")],
          interval=1.0),
    Sweep("link_audit", lambda its: link_audit(its.database),
           [DueRows("audit", "hash IS NULL", "id")], interval=0.2),
    Sweep("analyze", lambda its: analyze(its.database), interval=1.0),
    Sweep("roll_up", lambda its: roll_up(its.database), interval=10.0),
    Sweep("forget_old_rows", lambda its: forget_old_rows(its.database), interval=600.0),
    Sweep("check_live_runs", lambda its: checks.check_live_runs(its.database, its.check),
          interval=30.0),
)
# fmt: on
# One row with a boolean column for each sweep that has `due` rows. Binds `:unclaimed`.
_DUE_QUERY = "SELECT " + ", ".join(
    f"{' OR '.join(rows.exist for rows in sweep.due)} AS {sweep.name}"
    for sweep in SWEEPS
    if sweep.due
)
