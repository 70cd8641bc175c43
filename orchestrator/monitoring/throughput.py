"""Ended runs counted by minute, and the typical durations of workflows and steps.

A minute is counted two minutes after its end, when no transaction that ended a run in it is open.
Readers add the runs that ended since then, which are few: the counts are more than 15 minutes old
only while no scheduler runs.
"""

from typing import Any
from uuid import UUID

from sqlalchemy.orm import Session

from orchestrator.db import statements

ENDS = 20_000  # about so many ended runs are counted in one transaction
WORKFLOWS = 5  # whose estimates are renewed in one transaction
SAMPLES = 50  # the last succeeded runs, of which an estimate is the median
SAMPLED_STEPS = 20_000  # of one workflow at most: fewer samples for runs of very many steps

# The first minute that has an ended run and is not counted.
_FIRST = """
    SELECT date_trunc('minute', min(finished_at)) AS minute FROM runs
    WHERE finished_at >= (SELECT coalesce(max(minute) + interval '1 min',
        date_trunc('minute', now()) - interval '8 days') FROM throughput)
"""
_MAY_COUNT = f"({_FIRST}) <= date_trunc('minute', now()) - interval '3 min'"
_NEXT = f"""
    WITH first AS MATERIALIZED ({_FIRST}),
    full_at AS (
        SELECT coalesce((
            SELECT date_trunc('minute', finished_at) FROM runs
            WHERE finished_at >= (SELECT minute FROM first)
            ORDER BY finished_at OFFSET :ends LIMIT 1
        ), 'infinity') AS minute
    )
    SELECT first.minute AS since, least(
        greatest(full_at.minute, first.minute + interval '1 min'),
        date_trunc('minute', now()) - interval '2 min'
    ) AS until
    FROM first, full_at
"""
# A run that was cancelled before it started has no waiting and no working time.
_COUNT = """
    INSERT INTO throughput (tenant_id, minute, workflow_id, queue, state, runs, waited, worked)
    SELECT tenant_id, date_trunc('minute', finished_at), workflow_id, queue, state, count(*),
        coalesce(extract(epoch FROM sum(started_at - greatest(created_at, run_at))), 0),
        coalesce(extract(epoch FROM sum(finished_at - started_at)), 0)
    FROM runs WHERE finished_at >= :since AND finished_at < :until
    GROUP BY 1, 2, 3, 4, 5
    ON CONFLICT DO NOTHING
    RETURNING workflow_id, state
"""
# The oldest estimates first; the others are renewed when the next run of their workflow ends.
_STALE = """
    SELECT workflows.id FROM workflows LEFT JOIN estimates
        ON estimates.workflow_id = workflows.id AND estimates.step = ''
    WHERE workflows.id = ANY(:ids)
      AND (samples IS NULL OR samples < :samples
           OR estimates.updated_at < now() - interval '5 min')
    ORDER BY estimates.updated_at NULLS FIRST LIMIT :limit
"""
_ESTIMATE = """
    WITH sampled AS MATERIALIZED (
        SELECT workflows.tenant_id, workflows.id AS workflow_id, ended.* FROM workflows
        JOIN versions ON versions.workflow_id = workflows.id
            AND versions.number = workflows.version,
        LATERAL (
            SELECT id AS run_id, finished_at - started_at AS took FROM runs
            WHERE workflow_id = workflows.id AND state = 'succeeded'
            ORDER BY finished_at DESC
            LIMIT least(:samples, 1 + :steps / greatest(1, jsonb_array_length(versions.plan)))
        ) ended
        WHERE workflows.id = :workflow_id
    ), measured AS (
        SELECT tenant_id, workflow_id, '' AS step, took FROM sampled
        UNION ALL
        SELECT sampled.tenant_id, workflow_id, key, steps.finished_at - steps.started_at
        FROM sampled JOIN steps USING (run_id) WHERE steps.state = 'succeeded'
    )
    INSERT INTO estimates (workflow_id, step, tenant_id, seconds, samples, updated_at)
    SELECT workflow_id, step, tenant_id,
        percentile_cont(0.5) WITHIN GROUP (ORDER BY extract(epoch FROM took)), count(*), now()
    FROM measured WHERE took IS NOT NULL GROUP BY 1, 2, 3
    ON CONFLICT (workflow_id, step) DO UPDATE
        SET seconds = excluded.seconds, samples = excluded.samples, updated_at = now()
"""
_FORGET = "DELETE FROM throughput WHERE minute < now() - interval '8 days'"

# A counted minute without a row of this tenant has no ended run of it.
_ENDED = """
    WITH ended AS (
        SELECT minute AS at, state, runs, waited, worked FROM throughput
        WHERE tenant_id = :tenant_id
          AND minute >= least(date_trunc('day', now()), now() - interval '1 h')
        UNION ALL
        SELECT min(finished_at), state, count(*),
            extract(epoch FROM sum(started_at - greatest(created_at, run_at))),
            extract(epoch FROM sum(finished_at - started_at))
        FROM runs
        WHERE tenant_id = :tenant_id AND finished_at >= now() - interval '15 min'
          AND finished_at >= (SELECT coalesce(max(minute) + interval '1 min', '-infinity')
            FROM throughput WHERE tenant_id = :tenant_id)
        GROUP BY state, finished_at >= date_trunc('day', now())
    ), ended_lately AS (
        SELECT state, runs, waited, worked, state <> 'cancelled' AS worked_on,
            at >= date_trunc('day', now()) AS today, at >= now() - interval '1 h' AS lately
        FROM ended
    )
    SELECT
        coalesce(CAST(sum(runs) FILTER (WHERE today) AS bigint), 0) AS ended_today,
        coalesce(CAST(sum(runs) FILTER (WHERE today AND state = 'succeeded') AS bigint), 0)
            AS succeeded_today,
        coalesce(CAST(sum(runs) FILTER (WHERE today AND state IN ('failed', 'timed_out'))
            AS bigint), 0) AS failed_today,
        CAST(sum(worked) FILTER (WHERE today AND worked_on) / nullif(
            sum(runs) FILTER (WHERE today AND worked_on), 0) AS float) AS mean_duration_seconds,
        CAST(sum(waited) FILTER (WHERE lately AND worked_on) / nullif(
            sum(runs) FILTER (WHERE lately AND worked_on), 0) AS float) AS average_wait_seconds,
        coalesce(CAST(sum(runs) FILTER (WHERE lately) AS bigint), 0) AS throughput_per_hour
    FROM ended_lately
"""
_TYPICAL = """
    SELECT workflow_id, seconds FROM estimates
    WHERE workflow_id = ANY(:ids) AND step = '' AND tenant_id = :tenant_id
"""


def roll_up(session: Session, limit: int = ENDS) -> int:
    """Count the next minutes, once; gives how many rows, 0 while another process has the lock."""
    if not statements.try_advisory_lock(session, "throughput", when=_MAY_COUNT):
        return 0
    span = statements.row(session, _NEXT, ends=limit)
    if span is None or span.since is None or span.since >= span.until:
        return 0
    counted = statements.rows(session, _COUNT, since=span.since, until=span.until)
    _estimate(session, {row.workflow_id for row in counted if row.state == "succeeded"})
    statements.execute(session, _FORGET)
    return len(counted)


def typical_seconds(
    session: Session, tenant_id: UUID, workflow_ids: set[UUID]
) -> dict[UUID, float]:
    """The median duration of a run by workflow id, of the workflows that have an estimate."""
    rows = statements.rows(session, _TYPICAL, ids=list(workflow_ids), tenant_id=tenant_id)
    return {row.workflow_id: row.seconds for row in rows}


def count_ended(session: Session, tenant_id: UUID) -> dict[str, Any]:
    """How a tenant's runs ended today (UTC) and in the last hour; means are of uncancelled ones."""
    ended = statements.rows(session, _ENDED, tenant_id=tenant_id)[0]
    completed = ended.succeeded_today + ended.failed_today
    success_rate = ended.succeeded_today / completed if completed else None
    return {**ended._mapping, "success_rate": success_rate}


def _estimate(session: Session, workflow_ids: set[UUID]) -> None:
    if not workflow_ids:
        return
    params = {"ids": list(workflow_ids), "samples": SAMPLES, "limit": WORKFLOWS}
    for stale in statements.rows(session, _STALE, **params):
        params = {"workflow_id": stale.id, "samples": SAMPLES, "steps": SAMPLED_STEPS}
        statements.execute(session, _ESTIMATE, **params)
