"""Mends what `invariants` finds: under the run's lock, by the usual transitions, with an event.

None of it should ever be needed, so every time is an error in the log that an operator should see.
What another sweep looks for is left to it: only who asks for that run (`doctor --heal`) mends it.
"""

import logging
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy.exc import DBAPIError, TimeoutError
from sqlalchemy.orm import Session

from orchestrator import runs
from orchestrator.db import Row, journal, statements, transitions
from orchestrator.db.database import Database
from orchestrator.db.engine import is_transient
from orchestrator.engine import admission, attempts, claims, concurrency, progress, publishing
from orchestrator.maintenance import checks
from orchestrator.maintenance.checks import Violation
from orchestrator.maintenance.invariants import BY_NAME, RepairKind
from orchestrator.states import RunState, RunTransition, StepTransition

REPAIRED_EVENT = "run.healed"
BATCH = 50  # runs of one kind that are looked at in one transaction
MAX_SECONDS = 0.5  # that a pass goes on beginning with new ones: the other sweeps wait for it
_SETTLED = timedelta(seconds=20)  # a transaction that ended a run has committed by then
_MOST_TOLD = 10_000

_log = logging.getLogger(__name__)

Repairer = Callable[[Session, Row, list[str]], bool]

# Runs that go on, and runs with a step that does, whatever their state: by small indexes, and from
# one run to the next, so that a pass costs the same however many there are.
_GOING = """
    SELECT id FROM (
        (SELECT DISTINCT run_id AS id FROM steps
         WHERE state IN ('queued', 'running', 'waiting') AND run_id > :after
         ORDER BY run_id LIMIT :limit)
        UNION
        (SELECT live.id
         FROM tenants, unnest(CAST('{queued, running, cancelling}' AS text[])) AS wanted(state),
         LATERAL (
            SELECT id FROM runs
            WHERE tenant_id = tenants.id AND state = wanted.state AND id > :after
            ORDER BY id LIMIT :limit
         ) live
         ORDER BY live.id LIMIT :limit)
    ) going ORDER BY id LIMIT :limit
"""
_ENDED = """
    SELECT id, finished_at FROM runs
    WHERE finished_at > coalesce(CAST(:since AS timestamptz), now() - interval '5 min')
      AND finished_at < now() - CAST(:settled AS interval)
    ORDER BY finished_at LIMIT :limit
"""
_LEFT = """
    (SELECT id FROM runs
     WHERE state = 'pending' AND NOT due AND NOT held AND concurrency_key IS NULL
       AND run_at IS NULL LIMIT :limit)
    UNION
    (SELECT attempts.run_id FROM attempts JOIN steps ON steps.id = attempts.step_id
     WHERE attempts.outcome IS NULL
       AND (steps.state <> 'running' OR steps.attempt <> attempts.number) LIMIT :limit)
"""
_END_ATTEMPTS = """
    UPDATE attempts SET outcome = 'lost', finished_at = clock_timestamp(), error = :error
    FROM steps WHERE steps.run_id = :run_id AND attempts.step_id = steps.id
      AND attempts.outcome IS NULL
      AND (steps.state <> 'running' OR steps.attempt <> attempts.number)
    RETURNING attempts.number
"""
_NEEDED = "SELECT * FROM steps WHERE run_id = :run_id AND key = :key"
_STEPS = "SELECT * FROM steps WHERE run_id = :run_id AND key = ANY(:keys) AND state = 'running'"
_KNOW_QUEUES = """
    INSERT INTO queues (name)
    SELECT queue FROM runs WHERE id = :run_id UNION SELECT queue FROM steps WHERE run_id = :run_id
    ON CONFLICT DO NOTHING RETURNING name
"""
_THESE = "run_id = :run_id AND key = ANY(:keys)"
_REASON = "nobody answered for it"
_BEGINNING = UUID(int=0)  # before every run
_GRACE = timedelta(seconds=5)  # of a run whose timeout passed long ago


@dataclass
class Rounds:
    """How far the sweep of one process has come, and what it has said already."""

    after: UUID = _BEGINNING
    since: datetime | None = None  # None: it has not begun
    told: set[Violation] = field(default_factory=set)


def repair_recent(database: Database, rounds: Rounds) -> int:
    """Mend what goes on and what has just ended; gives how many runs were mended.

    Of very many each pass takes the next ones.
    """
    mended, is_more = 0, True
    until = time.monotonic() + MAX_SECONDS
    while is_more:
        with database.transaction() as session:
            found, is_more = _look(session, rounds)
        for run_id in {each.run_id for each in found if each.run_id is not None}:
            mended += bool(_mend_alone(database, run_id))
        _tell(rounds, [each for each in found if BY_NAME[each.broken].repair is None])
        is_more &= time.monotonic() < until
    return mended


def repair_run(session: Session, run_id: UUID) -> list[str]:
    """Mend what can be mended of a run that nobody else holds; gives what was wrong with it."""
    healed: list[str] = []
    tried: set[str] = set()
    if not transitions.lock_unlocked_runs(session, [run_id]):
        return healed
    while found := [each for each in _mendable(session, run_id) if each.broken not in tried]:
        broken = found[0].broken
        tried.add(broken)
        keys = sorted({each.step for each in found if each.broken == broken and each.step})
        run = transitions.lock_run(session, run_id)
        repair = BY_NAME[broken].repair
        if run is not None and repair is not None and REPAIRERS[repair](session, run, keys):
            healed.append(broken)
            noted: dict[str, Any] = {"invariant": broken, "done": repair.value, "steps": keys}
            journal.record_event(session, run_id, REPAIRED_EVENT, **noted)
            _log.error("healed", extra={"run_id": str(run_id), **noted})
    return healed


def _mend_alone(database: Database, run_id: UUID) -> list[str]:
    """Mend a run in a transaction of its own; one that fails does not stop the others."""
    try:
        with database.transaction() as session:
            return repair_run(session, run_id)
    except Exception as error:
        if isinstance(error, DBAPIError | TimeoutError) and is_transient(error):
            raise
        _log.exception("a run could not be healed", extra={"run_id": str(run_id)})
        return []


def _look(session: Session, rounds: Rounds) -> tuple[list[Violation], bool]:
    """What is wrong with the next runs, and whether there are more of them."""
    given = {"after": rounds.after, "limit": BATCH}
    going = [row.id for row in statements.rows(session, _GOING, **given)]
    left = [row.id for row in statements.rows(session, _LEFT, limit=BATCH)]
    given = {"since": rounds.since, "settled": _SETTLED, "limit": BATCH}
    ended = statements.rows(session, _ENDED, **given)
    found = checks.check_runs(session, {*going, *left}, history=False)
    found += checks.check_runs(session, [row.id for row in ended])
    found = [each for each in found if not BY_NAME[each.broken].overdue]
    rounds.after = going[-1] if len(going) == BATCH else _BEGINNING
    rounds.since = ended[-1].finished_at if ended else rounds.since
    return found, BATCH in (len(going), len(ended))


def _mendable(session: Session, run_id: UUID) -> list[Violation]:
    """What is wrong with a run and has a remedy, asked again under its lock."""
    statements.flush_deferred(session)  # what the last remedy has put off
    found = checks.check_runs(session, [run_id], history=False)
    return [each for each in found if BY_NAME[each.broken].repair]


def _tell(rounds: Rounds, found: Collection[Violation]) -> None:
    """Say once of each finding that nothing can mend it."""
    for each in found:
        if each not in rounds.told and len(rounds.told) < _MOST_TOLD:
            rounds.told.add(each)
            _log.error(
                "broken", extra={**each._asdict(), "run_id": str(each.run_id), "healed": False}
            )


def _begin(session: Session, run: Row, keys: list[str]) -> bool:
    """Bring a run to where its steps are already, unless something still holds it."""
    if run.state == RunState.PENDING and not run.due:
        return False
    admission.admit_runs(session, [run.id])
    if statements.rows(session, _STEPS, run_id=run.id, keys=keys):
        _start(session, run)
    return True


def _cancel(session: Session, run: Row, keys: list[str]) -> bool:
    given = {"run_id": run.id, "keys": keys}
    moved = transitions.steps(session, StepTransition.CANCEL).where(_THESE, **given).all()
    moved += transitions.steps(session, StepTransition.STOP).where(_THESE, **given).all()
    publishing.revoke(session, moved)
    _end_attempts(session, run, keys)
    if run.state == RunState.CANCELLING:
        progress.close_if_ended(session, run)
    return bool(moved)


def _end_attempts(session: Session, run: Row, keys: list[str]) -> bool:
    error = statements.to_json({"message": _REASON, "kind": "Interrupted"})
    return bool(statements.rows(session, _END_ATTEMPTS, run_id=run.id, error=error))


def _end_run(session: Session, run: Row, keys: list[str]) -> bool:
    _admit_and_start(session, run)
    progress.close_if_ended(session, _again(session, run))
    return True


def _expire(session: Session, run: Row, keys: list[str]) -> bool:
    reason = "the run's timeout has passed"
    runs.stop_run(session, run, grace=_GRACE, reason=reason, timed_out=True)
    return True


def _give_up(session: Session, run: Row, keys: list[str]) -> bool:
    _admit_and_start(session, run)
    (found, *_) = (
        each
        for each in _mendable(session, run.id)
        if BY_NAME[each.broken].repair == RepairKind.GIVE_UP
    )
    needed = statements.row(session, _NEEDED, run_id=run.id, key=found.detail)
    if needed is not None:
        progress.fail_run(session, _again(session, run), needed)
    return needed is not None


def _know_queue(session: Session, run: Row, keys: list[str]) -> bool:
    return bool(statements.rows(session, _KNOW_QUEUES, run_id=run.id))


def _pass_on(session: Session, run: Row, keys: list[str]) -> bool:
    return bool(concurrency.grant(session, run.workflow_id, run.concurrency_key))


def _queue(session: Session, run: Row, keys: list[str]) -> bool:
    """The scheduler publishes them as the window has room."""
    given = {"run_id": run.id, "keys": keys, "continues": None}
    which = f"{_THESE} AND {transitions.NEEDS_MET}"
    ready = transitions.steps(session, StepTransition.READY).where(which, **given)
    return bool(ready.set(transitions.QUEUED).all())


def _release(session: Session, run: Row, keys: list[str]) -> bool:
    statements.execute(session, "UPDATE runs SET due = true WHERE id = :id", id=run.id)
    return True


def _rescue(session: Session, run: Row, keys: list[str]) -> bool:
    steps = statements.rows(session, _STEPS, run_id=run.id, keys=keys)
    for step in steps:
        attempts.end_running_attempt(session, _again(session, run), step, _REASON)
    return bool(steps)


def _wake(session: Session, run: Row, keys: list[str]) -> bool:
    values = "wake_at = NULL, queued_at = now()"
    given = {"run_id": run.id, "keys": keys}
    return bool(
        transitions.steps(session, StepTransition.WAKE).where(_THESE, **given).set(values).all()
    )


def _admit_and_start(session: Session, run: Row) -> None:
    """Only a run that has begun can end."""
    admit = transitions.runs(session, RunTransition.ADMIT).where("id = :id", id=run.id)
    admit.set("queued_at = now()").one()
    _start(session, run)


def _start(session: Session, run: Row) -> None:
    start = transitions.runs(session, RunTransition.START).where("id = :id", id=run.id)
    start.set(claims.STARTED).one()


def _again(session: Session, run: Row) -> Any:
    """The locked run as it is now."""
    return transitions.lock_run(session, run.id)


REPAIRERS: Mapping[RepairKind, Repairer] = {
    RepairKind.BEGIN: _begin,
    RepairKind.CANCEL: _cancel,
    RepairKind.END_ATTEMPT: _end_attempts,
    RepairKind.END_RUN: _end_run,
    RepairKind.EXPIRE: _expire,
    RepairKind.GIVE_UP: _give_up,
    RepairKind.KNOW_QUEUE: _know_queue,
    RepairKind.PASS_ON: _pass_on,
    RepairKind.QUEUE: _queue,
    RepairKind.RELEASE: _release,
    RepairKind.RESCUE: _rescue,
    RepairKind.WAKE: _wake,
}
