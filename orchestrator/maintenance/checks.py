"""Asks where the invariants do not hold: of some runs, or of all there are."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import NamedTuple
from uuid import UUID

from sqlalchemy.orm import Session

from orchestrator.db import statements
from orchestrator.maintenance.invariants import INVARIANTS, SUM_QUERIES

BATCH = 1000  # runs asked about at once when all of them are
MAX_FINDINGS = 1000  # findings; who has more has one cause for them

_NEXT = "SELECT id FROM runs WHERE id > :after ORDER BY id LIMIT :limit"
_COUNT = """
    SELECT (SELECT count(*) FROM steps WHERE run_id = ANY(CAST(:ids AS uuid[]))) AS steps,
        (SELECT count(*) FROM events WHERE run_id = ANY(CAST(:ids AS uuid[]))) AS events
"""


class Violation(NamedTuple):
    """Where an invariant does not hold."""

    broken: str
    run_id: UUID | None  # None: it is about no run
    step: str | None
    detail: str


@dataclass
class CheckResult:
    """What was looked at, and what was found."""

    runs: int = 0
    steps: int = 0
    events: int = 0
    findings: list[Violation] = field(default_factory=list)


def check_runs(
    session: Session, run_ids: Collection[UUID], *, history: bool = True
) -> list[Violation]:
    """What is wrong with these runs, all at the same moment.

    Without `history` no run's events are read, of which one may have very many.
    """
    if not run_ids:
        return []
    found = statements.rows(session, _statement(history), ids=list(run_ids))
    return [Violation(row.broken, row.run_id, row.step, row.detail) for row in found]


def check_all_runs(session: Session) -> CheckResult:
    """What is wrong with any run, and with the sums over all of them."""
    look, after = CheckResult(), UUID(int=0)
    while ids := _next(session, after):
        counted = statements.rows(session, _COUNT, ids=ids)[0]
        look.runs += len(ids)
        look.steps += counted.steps
        look.events += counted.events
        look.findings += check_runs(session, ids)[: MAX_FINDINGS - len(look.findings)]
        after = ids[-1]
    for broken, sql in SUM_QUERIES.items():
        look.findings += [
            Violation(broken, None, None, row.detail) for row in statements.rows(session, sql)
        ]
    return look


def _next(session: Session, after: UUID) -> Sequence[UUID]:
    return [row.id for row in statements.rows(session, _NEXT, after=after, limit=BATCH)]


@cache
def _statement(history: bool) -> str:
    """One statement for all of them: they see the same moment."""
    asked = [each for each in INVARIANTS if history or not each.of_history]
    parts = " UNION ALL ".join(
        f"SELECT $${each.broken}$$ AS broken, run_id, step, CAST(detail AS text) AS detail"
        f" FROM ({each.sql}) found"
        for each in asked
    )
    run = "SELECT * FROM runs WHERE id = ANY(CAST(:ids AS uuid[]))"
    return f"WITH run AS MATERIALIZED ({run}) {parts}"
