"""How many runs there are of each kind and state, without counting them.

A trigger on `runs` appends a change when a run is made, when it ends and when it is opened again,
and `fold` adds the changes up. Who reads adds both tables, and the few runs that are queued or
running, in one statement, and so is always exact. What is left over waits.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy.orm import Session

from orchestrator.db import statements
from orchestrator.states import RunState

BATCH = 20_000  # changes folded at once

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
_OF_KIND = """
    tenant_id = :tenant_id
    AND (CAST(:project_id AS uuid) IS NULL OR project_id = CAST(:project_id AS uuid))
    AND (CAST(:workflow AS text) IS NULL OR workflow = CAST(:workflow AS text))
    AND (CAST(:schedule_id AS uuid) IS NULL OR schedule_id = CAST(:schedule_id AS uuid))
"""
_OF_SCHEDULES = "tenant_id = :tenant_id AND schedule_id = ANY(CAST(:ids AS uuid[]))"
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
    FROM ({_COUNTED.format(which=_OF_KIND)}) counted GROUP BY state
"""
_COUNT_SCHEDULES = f"""
    SELECT schedule_id, state, CAST(sum(runs) AS bigint) AS runs
    FROM ({_COUNTED.format(which=_OF_SCHEDULES)}) counted GROUP BY schedule_id, state
"""


@dataclass(frozen=True, kw_only=True)
class RunCountKey:
    """Which runs are counted together; None means whatever it is."""

    project_id: UUID | None = None
    workflow: str | None = None
    schedule_id: UUID | None = None


def fold_run_counts(session: Session, limit: int = BATCH) -> int:
    """Add up what has changed; 0 when nothing has, or when another process is at it."""
    if not statements.try_advisory_lock(
        session, "tallies", when="EXISTS (SELECT FROM tally_changes)"
    ):
        return 0
    folded = statements.row(session, _FOLD, limit=limit)
    return int(folded.folded) if folded else 0


def counts_by_state(session: Session, tenant_id: UUID, kind: RunCountKey) -> Mapping[RunState, int]:
    """How many runs of a kind a tenant has in each state, whatever their number."""
    found = statements.rows(session, _COUNT, tenant_id=tenant_id, **vars(kind))
    return _known({row.state: row.runs for row in found})


def counts_of_schedules(
    session: Session, tenant_id: UUID, ids: Sequence[UUID]
) -> Mapping[UUID, Mapping[RunState, int]]:
    """How many runs of each of some schedules there are in each state, by the schedule's id."""
    counted: dict[UUID, dict[str, int]] = {each: {} for each in ids}
    for row in statements.rows(session, _COUNT_SCHEDULES, tenant_id=tenant_id, ids=list(ids)):
        counted[row.schedule_id][row.state] = row.runs
    return {each: _known(states) for each, states in counted.items()}


def _known(counted: dict[str, int]) -> Mapping[RunState, int]:
    """The counts of all states; what is of none of the others is pending."""
    total = counted.pop("", 0)
    known = {state: counted.get(state, 0) for state in RunState}
    return known | {RunState.PENDING: total - sum(known.values())}
