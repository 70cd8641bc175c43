"""Exact numbers of runs by state, in all or of one kind, without counting rows of `runs`.

A trigger on `runs` appends to `tally_changes` when a run is created, ends or is reopened, and
`fold_run_counts` sums these rows into `tallies`. Readers add both tables and the few runs that are
queued or running in one statement, so their counts are always exact. The rest is pending.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy.orm import Session

from orchestrator.db import statements
from orchestrator.states import RunState

BATCH = 20_000  # changes summed in one transaction

_FOLD = """
    WITH taken AS (
        DELETE FROM tally_changes
        WHERE id IN (SELECT id FROM tally_changes ORDER BY id LIMIT :limit)
        RETURNING tenant_id, project_id, workflow, schedule_id, state, change
    ), filled AS (
        INSERT INTO tallies AS known (tenant_id, project_id, workflow, schedule_id, state, runs)
        SELECT tenant_id, project_id, workflow, schedule_id, state, sum(change)
        FROM taken GROUP BY 1, 2, 3, 4, 5 HAVING sum(change) <> 0
        ON CONFLICT (tenant_id, project_id, workflow, schedule_id, state)
            DO UPDATE SET runs = known.runs + excluded.runs
    )
    SELECT count(*) AS folded FROM taken
"""
_KIND_FILTER = """
    tenant_id = :tenant_id
    AND (CAST(:project_id AS uuid) IS NULL OR project_id = CAST(:project_id AS uuid))
    AND (CAST(:workflow AS text) IS NULL OR workflow = CAST(:workflow AS text))
    AND (CAST(:schedule_id AS uuid) IS NULL OR schedule_id = CAST(:schedule_id AS uuid))
"""
_SCHEDULES_FILTER = "tenant_id = :tenant_id AND schedule_id = ANY(CAST(:ids AS uuid[]))"
_COUNTED = """
    SELECT state, schedule_id, runs FROM tallies WHERE {which}
    UNION ALL
    SELECT state, schedule_id, change FROM tally_changes WHERE {which}
    UNION ALL
    SELECT state, schedule_id, count(*) FROM runs
    WHERE state IN ('queued', 'running', 'cancelling') AND {which} GROUP BY state, schedule_id
"""
_COUNT = f"""
    SELECT state, CAST(sum(runs) AS bigint) AS runs
    FROM ({_COUNTED.format(which=_KIND_FILTER)}) counted GROUP BY state
"""
_COUNT_SCHEDULES = f"""
    SELECT schedule_id, state, CAST(sum(runs) AS bigint) AS runs
    FROM ({_COUNTED.format(which=_SCHEDULES_FILTER)}) counted GROUP BY schedule_id, state
"""


@dataclass(frozen=True, kw_only=True)
class RunCountKey:
    """Which runs are counted; None matches any value."""

    project_id: UUID | None = None
    workflow: str | None = None
    schedule_id: UUID | None = None


def fold_run_counts(session: Session, limit: int = BATCH) -> int:
    """Sum up to `limit` changes; gives how many, 0 while another process has the lock."""
    if not statements.try_advisory_lock(
        session, "tallies", when="EXISTS (SELECT FROM tally_changes)"
    ):
        return 0
    return int(statements.rows(session, _FOLD, limit=limit)[0].folded)


def counts_by_state(session: Session, tenant_id: UUID, kind: RunCountKey) -> Mapping[RunState, int]:
    """The number of a tenant's runs of a kind, by state."""
    rows = statements.rows(session, _COUNT, tenant_id=tenant_id, **vars(kind))
    return _with_pending({row.state: row.runs for row in rows})


def counts_of_schedules(
    session: Session, tenant_id: UUID, ids: Sequence[UUID]
) -> Mapping[UUID, Mapping[RunState, int]]:
    """The number of runs of each schedule, by schedule id and state."""
    counts: dict[UUID, dict[str, int]] = {each: {} for each in ids}
    for row in statements.rows(session, _COUNT_SCHEDULES, tenant_id=tenant_id, ids=list(ids)):
        counts[row.schedule_id][row.state] = row.runs
    return {each: _with_pending(by_state) for each, by_state in counts.items()}


def _with_pending(counts: dict[str, int]) -> Mapping[RunState, int]:
    """The counts of all states; `counts` has the total under "" and no pending runs."""
    total = counts.pop("", 0)
    others = {state: counts.get(state, 0) for state in RunState}
    return others | {RunState.PENDING: total - sum(others.values())}
