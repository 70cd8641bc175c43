"""A year of runs, written directly into the tables, to measure lists on."""

from uuid import UUID

from sqlalchemy import Connection, text

WORKFLOWS = 20
SCHEDULES = 10

# A name's share falls with its number; a third of the runs comes from schedules.
_RUNS = """
    INSERT INTO runs (id, tenant_id, workflow_id, version_id, project_id, workflow, version, state,
        priority, queue, params, tags, trigger, source_type, source_id, reason, submitted_by,
        environment, annotations, schedule_id, logical_date, run_at, due, timed_out, warnings,
        event_seq, created_at, queued_at, started_at, finished_at)
    SELECT CAST(lpad(to_hex(CAST(extract(epoch FROM made_at) * 1000 AS bigint)), 12, '0') || '7'
            || substr(md5(n::text), 1, 3) || '8' || substr(md5(n::text), 4, 15) AS uuid),
        :tenant_id, workflows.id, versions.id, workflows.project_id, workflows.name, 1, state,
        CASE n % 10 WHEN 0 THEN 8 WHEN 1 THEN 6 WHEN 2 THEN 2 ELSE 4 END, 'default',
        jsonb_build_object('day', made_at::date),
        CASE WHEN n % 10007 = 0 THEN CAST('{rare}' AS text[])
             WHEN n % 3 = 0 THEN '{often}' ELSE '{}' END,
        CASE WHEN schedules.id IS NULL THEN 'manual' ELSE 'schedule' END,
        CASE WHEN schedules.id IS NULL THEN 'key' ELSE 'schedule' END, schedules.id::text,
        'bench', 'user' || n % 50, 'production', '{}', schedules.id,
        CASE WHEN schedules.id IS NOT NULL THEN date_trunc('minute', made_at) END,
        CASE WHEN state = 'pending' THEN now() + interval '1 day' END, state <> 'pending',
        state = 'timed_out', CASE WHEN n % 30 = 0 THEN 1 ELSE 0 END, 1, made_at,
        CASE WHEN state <> 'pending' THEN made_at + interval '1 s' END,
        CASE WHEN state <> 'pending' THEN made_at + interval '2 s' END,
        CASE WHEN state <> 'pending' THEN made_at + interval '40 s' END
    FROM generate_series(CAST(:first AS bigint), :last) AS n
    CROSS JOIN LATERAL (SELECT
        now() - (:total - n) * (interval '1 year' / :total) - interval '5 min' AS made_at,
        CASE WHEN n % 100 < 90 THEN 'succeeded' WHEN n % 100 < 95 THEN 'failed'
            WHEN n % 100 < 96 THEN 'timed_out' WHEN n % 100 < 99 THEN 'cancelled'
            WHEN n > :total - 20000 THEN 'pending' ELSE 'failed' END AS state,
        CAST(sqrt((n * 7919) % 10000) / 100 * :workflows AS int) AS which) made
    JOIN workflows ON workflows.tenant_id = :tenant_id
        AND workflows.name = 'bench-' || least(which, :workflows - 1)
    JOIN versions ON versions.workflow_id = workflows.id
    LEFT JOIN schedules ON n % 3 = 0 AND schedules.tenant_id = :tenant_id
        AND schedules.name = 'bench-' || (n / 3) % :schedules
"""
_STEPS = """
    INSERT INTO steps (id, tenant_id, run_id, position, key, name, uses, needs, dependents,
        followers, state, attempt, losses, forgiven, max_attempts, generation, queue, priority,
        allow_failure, spec, created_at, started_at, finished_at)
    SELECT gen_random_uuid(), tenant_id, id, position, 's' || position, 'Step ' || position, 'noop',
        '{}', '{}', '{}', CASE state WHEN 'pending' THEN 'pending' WHEN 'cancelled' THEN 'cancelled'
            WHEN 'succeeded' THEN 'succeeded' ELSE 'failed' END, 1, 0, 0, 1, 1, 'default', 4, false,
        '{}', created_at, started_at, finished_at
    FROM runs, generate_series(0, 1) AS position
    WHERE tenant_id = :tenant_id AND reason = 'bench' AND number BETWEEN :from AND :to
"""
_EVENTS = """
    INSERT INTO events (tenant_id, run_id, seq, type, data, occurred_at)
    SELECT tenant_id, id, 1, 'run.created', '{}', coalesce(finished_at, created_at)
    FROM runs WHERE tenant_id = :tenant_id AND reason = 'bench' AND number BETWEEN :from AND :to
    ORDER BY number
"""
_KIND = "tenant_id, project_id, workflow, schedule_id"
_TALLIES = f"""
    INSERT INTO tallies ({_KIND}, state, runs)
    SELECT {_KIND}, '', count(*) FROM runs WHERE tenant_id = :tenant_id GROUP BY 1, 2, 3, 4
    UNION ALL
    SELECT {_KIND}, state, count(*) FROM runs
    WHERE tenant_id = :tenant_id AND finished_at IS NOT NULL GROUP BY 1, 2, 3, 4, 5
"""
_TAGS = """
    INSERT INTO run_tags (tenant_id, tag, run_id)
    SELECT tenant_id, unnest(tags), id FROM runs
    WHERE tenant_id = :tenant_id AND reason = 'bench' AND number BETWEEN :from AND :to
"""
_BATCH = 50_000


def fill(connection: Connection, tenant_id: UUID, total: int) -> None:
    """Write `total` runs of two steps each, evenly over the last year, and count them.

    The workflows `bench-0` … and schedules `bench-0` … must be there already.
    """
    tenant = {"tenant_id": tenant_id}
    # The tallies are computed below instead.
    connection.execute(text("ALTER TABLE runs DISABLE TRIGGER count_new"))
    connection.execute(text("DELETE FROM tally_changes"))
    connection.execute(text("DELETE FROM tallies"))
    for first in range(1, total + 1, _BATCH):
        last = min(total, first + _BATCH - 1)
        span = {"first": first, "last": last, "total": total}
        kinds = {"workflows": WORKFLOWS, "schedules": SCHEDULES}
        before = connection.scalar(text("SELECT coalesce(max(number), 0) FROM runs"))
        connection.execute(text(_RUNS), {**tenant, **span, **kinds})
        numbers = {"from": before + 1, "to": before + last - first + 1}
        connection.execute(text(_STEPS), {**tenant, **numbers})
        connection.execute(text(_EVENTS), {**tenant, **numbers})
        connection.execute(text(_TAGS), {**tenant, **numbers})
    connection.execute(text("ALTER TABLE runs ENABLE TRIGGER count_new"))
    connection.execute(text(_TALLIES), tenant)


def settle(connection: Connection) -> None:
    """VACUUM ANALYZE, as autovacuum would have done; needs autocommit."""
    for table in ("runs", "steps", "events", "tallies", "run_tags"):
        connection.execute(text(f"VACUUM ANALYZE {table}"))
