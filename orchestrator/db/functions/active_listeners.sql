-- The active workers of a queue: those that have reported lately and do not drain.
CREATE OR REPLACE FUNCTION active_listeners(queue text) RETURNS SETOF workers LANGUAGE sql STABLE AS $$
  SELECT * FROM workers
  WHERE active_listeners.queue = ANY(workers.queues) AND workers.seen_at >= now() - interval '15 s'
    AND NOT workers.draining AND workers.drain_by IS NULL;
$$;
