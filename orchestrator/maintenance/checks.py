"""Run the invariant queries: for given runs, for all runs, or for live and recently ended ones."""

import logging
import time
from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import cache
from typing import NamedTuple
from uuid import UUID

from sqlalchemy.orm import Session

from orchestrator.db import statements
from orchestrator.db.database import Database
from orchestrator.maintenance.invariants import INVARIANTS, OF_HISTORY, OVERDUE, SUM_QUERIES

BATCH = 1000  # runs per statement when all of them are checked
MAX_FINDINGS = 1000  # more of them have one cause
LIVE_BATCH = 50  # runs of one kind per transaction when the live ones are checked
MAX_SECONDS = 0.5  # after which a pass over the live runs begins no further batch
_MAX_LOGGED = 10_000  # violations that one process logs
_SETTLED = timedelta(seconds=20)  # a transaction that ended a run has committed by then
_FIRST = UUID(int=0)  # less than every id

_log = logging.getLogger(__name__)

_NEXT = "SELECT id FROM runs WHERE id > :after ORDER BY id LIMIT :limit"
_COUNT = """
    SELECT (SELECT count(*) FROM steps WHERE run_id = ANY(CAST(:ids AS uuid[]))) AS steps,
        (SELECT count(*) FROM events WHERE run_id = ANY(CAST(:ids AS uuid[]))) AS events
"""
# Live runs, and runs in any state with an active step: by small indexes and in the order of their
# ids, so that a pass costs the same however many there are.
_LIVE = """
    SELECT id FROM (
        (SELECT DISTINCT run_id AS id FROM steps
         WHERE state IN ('queued', 'running', 'waiting') AND run_id > :after
         ORDER BY run_id LIMIT :limit)
        UNION
        (SELECT live.id
         FROM tenants, unnest(CAST('{queued, running, cancelling}' AS text[])) AS active(state),
         LATERAL (
            SELECT id FROM runs
            WHERE tenant_id = tenants.id AND state = active.state AND id > :after
            ORDER BY id LIMIT :limit
         ) live
         ORDER BY live.id LIMIT :limit)
    ) live ORDER BY id LIMIT :limit
"""
_ENDED = """
    SELECT id, finished_at FROM runs
    WHERE finished_at > coalesce(CAST(:since AS timestamptz), now() - interval '5 min')
      AND finished_at < now() - CAST(:settled AS interval)
    ORDER BY finished_at LIMIT :limit
"""
# What violates an invariant although neither statement above finds it.
_STUCK = """
    (SELECT id FROM runs
     WHERE state = 'pending' AND NOT due AND NOT held AND concurrency_key IS NULL
       AND run_at IS NULL LIMIT :limit)
    UNION
    (SELECT attempts.run_id FROM attempts JOIN steps ON steps.id = attempts.step_id
     WHERE attempts.outcome IS NULL
       AND (steps.state <> 'running' OR steps.attempt <> attempts.number) LIMIT :limit)
"""


class Violation(NamedTuple):
    """Where an invariant does not hold."""

    broken: str  # the invariant
    run_id: UUID | None  # None: a sum over all runs
    step: str | None
    detail: str


@dataclass
class CheckResult:
    """How many rows were checked, and the violations."""

    runs: int = 0
    steps: int = 0
    events: int = 0
    findings: list[Violation] = field(default_factory=list)


@dataclass
class LiveCheck:
    """How far the check of the live runs has come in one process, and what it has logged."""

    after: UUID = _FIRST
    since: datetime | None = None  # None: before the first pass
    logged: set[Violation] = field(default_factory=set)


def check_runs(
    session: Session, run_ids: Collection[UUID], *, history: bool = True
) -> list[Violation]:
    """The violations of these runs, in one snapshot.

    `history=False` leaves out the invariants that read all events of a run: there may be very many.
    """
    if not run_ids:
        return []
    rows = statements.rows(session, _statement(history), ids=list(run_ids))
    return [Violation(row.broken, row.run_id, row.step, row.detail) for row in rows]


def check_all_runs(session: Session) -> CheckResult:
    """The violations of all runs, in batches, and of the sums over them."""
    result, after = CheckResult(), _FIRST
    while rows := statements.rows(session, _NEXT, after=after, limit=BATCH):
        ids = [row.id for row in rows]
        counts = statements.rows(session, _COUNT, ids=ids)[0]
        result.runs += len(ids)
        result.steps += counts.steps
        result.events += counts.events
        result.findings += check_runs(session, ids)[: MAX_FINDINGS - len(result.findings)]
        after = ids[-1]
    for broken, sql in SUM_QUERIES.items():
        result.findings += [
            Violation(broken, None, None, row.detail) for row in statements.rows(session, sql)
        ]
    return result


def check_live_runs(database: Database, check: LiveCheck) -> int:
    """Log each violation of the next live and just ended runs once; gives how many were new.

    Overdue work is left out: after an outage the sweeps have a backlog.
    """
    before, is_more = len(check.logged), True
    until = time.monotonic() + MAX_SECONDS
    while is_more:
        with database.transaction() as session:
            violations, is_more = _check_next(session, check)
        for each in violations:
            if each not in check.logged and len(check.logged) < _MAX_LOGGED:
                check.logged.add(each)
                fields = {**each._asdict(), "run_id": str(each.run_id)}
                _log.error("invariant violated", extra=fields)
        is_more &= time.monotonic() < until
    return len(check.logged) - before


def _check_next(session: Session, check: LiveCheck) -> tuple[list[Violation], bool]:
    """The violations of the next runs, and whether there are more runs."""
    live = [row.id for row in statements.rows(session, _LIVE, after=check.after, limit=LIVE_BATCH)]
    stuck = [row.id for row in statements.rows(session, _STUCK, limit=LIVE_BATCH)]
    ended = statements.rows(session, _ENDED, since=check.since, settled=_SETTLED, limit=LIVE_BATCH)
    violations = check_runs(session, {*live, *stuck}, history=False)
    violations += check_runs(session, [row.id for row in ended])
    check.after = live[-1] if len(live) == LIVE_BATCH else _FIRST
    check.since = ended[-1].finished_at if ended else check.since
    is_more = LIVE_BATCH in (len(live), len(ended))
    return [each for each in violations if each.broken not in OVERDUE], is_more


@cache
def _statement(history: bool) -> str:
    """All queries as one statement, so that they share a snapshot."""
    parts = " UNION ALL ".join(
        f"SELECT $${broken}$$ AS broken, run_id, step, CAST(detail AS text) AS detail"
        f" FROM ({sql}) violation"
        for broken, sql in INVARIANTS.items()
        if history or broken not in OF_HISTORY
    )
    run = "SELECT * FROM runs WHERE id = ANY(CAST(:ids AS uuid[]))"
    return f"WITH run AS MATERIALIZED ({run}) {parts}"
