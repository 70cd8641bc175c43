-- The rank of a run among the runs of its tenant that wait in its queue: no row for one that something else holds.
--
-- The bounds are computed in a CTE: under row-level security Postgres uses an index only with plain values. Runs that
-- are admitted and not claimed go before pending ones of the same priority.
CREATE OR REPLACE FUNCTION place_of_run(wanted uuid, owner uuid) RETURNS TABLE (queue text, "position" bigint)
LANGUAGE plpgsql STABLE AS $$
#variable_conflict use_column
BEGIN
  RETURN QUERY
    WITH mine AS MATERIALIZED (
        SELECT id, tenant_id, queue, priority, number, state = 'pending' AS waits,
            number >> 20 AS big, (number >> 20) << 10 AS first_small,
            number >> 10 AS small, (number >> 10) << 10 AS first_number
        FROM runs
        WHERE id = wanted AND tenant_id = owner
          AND (state = 'pending' AND due OR state = 'queued')
    )
    SELECT mine.queue, CAST(1 + sum(ahead.runs) AS bigint) AS position
    FROM mine, LATERAL (
        SELECT runs FROM backlog WHERE tenant_id = mine.tenant_id AND level = 2
          AND queue = mine.queue AND priority > mine.priority
        UNION ALL
        SELECT runs FROM backlog WHERE tenant_id = mine.tenant_id AND level = 2
          AND queue = mine.queue AND priority = mine.priority AND bucket < mine.big AND mine.waits
        UNION ALL
        SELECT runs FROM backlog WHERE tenant_id = mine.tenant_id AND level = 1
          AND queue = mine.queue AND priority = mine.priority
          AND bucket >= mine.first_small AND bucket < mine.small AND mine.waits
        UNION ALL
        SELECT change FROM backlog_changes WHERE tenant_id = mine.tenant_id
          AND queue = mine.queue AND (priority > mine.priority
            OR priority = mine.priority AND bucket < mine.small AND mine.waits)
        UNION ALL
        SELECT count(*) FROM runs other WHERE state = 'pending' AND due
          AND queue = mine.queue AND tenant_id = mine.tenant_id AND priority = mine.priority
          AND number >= mine.first_number AND number < mine.number AND mine.waits
        UNION ALL
        SELECT count(*) FROM runs other WHERE tenant_id = mine.tenant_id AND state = 'queued'
          AND queue = mine.queue AND (priority > mine.priority
            OR priority = mine.priority AND (mine.waits OR number < mine.number))
    ) ahead
    GROUP BY mine.queue;
END $$;
