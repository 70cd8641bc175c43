-- Whether a new run may start at once: nobody of its queue ranks before it, and the window has room.
--
-- It looks at other tenants' runs, which row-level security hides from the API: so it runs as its owner, and says
-- yes or no and nothing else. Its ORDER BY makes Postgres use the index of waiting runs; without it the planner
-- expected to meet one soon, and read the whole backlog of other queues.
CREATE OR REPLACE FUNCTION may_start(run_id uuid, run_queue text, run_priority int, most int)
RETURNS boolean LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path FROM CURRENT AS $$
BEGIN
  IF EXISTS (SELECT FROM tenants, LATERAL (
      SELECT FROM runs WHERE tenant_id = tenants.id AND queue = run_queue AND state = 'pending'
        AND due AND priority >= run_priority AND id <> run_id
      ORDER BY priority DESC, number LIMIT 1) ahead) THEN
    RETURN false;
  END IF;
  RETURN (SELECT count(*) FROM (
    SELECT FROM steps WHERE queue = run_queue AND state = 'queued' AND published_at IS NOT NULL
    LIMIT most) unclaimed) < most;
END $$;
REVOKE EXECUTE ON FUNCTION may_start FROM PUBLIC;
DO $$ BEGIN
  EXECUTE format('ALTER FUNCTION may_start SET search_path = %I, pg_temp', current_schema());
END $$;
