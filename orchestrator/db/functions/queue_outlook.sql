-- Of queues: how many runs of a tenant end per second, and the free and total capacity of their workers.
--
-- The pace is taken over the last 15 counted minutes, or over the part of them that had work, but over 5 minutes at
-- least.
CREATE OR REPLACE FUNCTION queue_outlook(owner uuid, names text[])
RETURNS TABLE (name text, pace float, free bigint, capacity bigint) LANGUAGE plpgsql STABLE AS $$
#variable_conflict use_column
BEGIN
  RETURN QUERY SELECT named.name, ended.pace, listeners.free, listeners.capacity
  FROM unnest(names) AS named(name),
  LATERAL (
    SELECT CAST(sum(runs) AS float) / CAST(greatest(300, extract(epoch FROM
        date_trunc('minute', now()) - interval '2 min' - min(minute))) AS float) AS pace
    FROM throughput
    WHERE tenant_id = owner AND minute >= now() - interval '17 min'
      AND queue = named.name AND state <> 'cancelled'
  ) ended,
  LATERAL (
    SELECT CAST(coalesce(sum(greatest(capacity - active, 0)), 0) AS bigint) AS free,
      CAST(coalesce(sum(capacity), 0) AS bigint) AS capacity
    FROM active_listeners(named.name)
  ) listeners;
END $$;
