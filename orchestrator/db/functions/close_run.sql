-- Ends a run, whose row the caller has locked, if it has no open step. A pending step waits for an open one above it, so
-- the small index of the active ones suffices. Its concurrency key goes to the next run.
CREATE OR REPLACE FUNCTION close_run(this_run uuid) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
  run record;
BEGIN
  IF EXISTS (SELECT FROM steps WHERE run_id = this_run AND state IN ('queued', 'running', 'waiting')) THEN
    RETURN;
  END IF;
  UPDATE runs SET finished_at = clock_timestamp(), event_seq = event_seq + 1, state = CASE
      WHEN state = 'cancelling' AND timed_out THEN 'timed_out'
      WHEN state = 'cancelling' THEN 'cancelled'
      WHEN EXISTS (SELECT FROM steps need WHERE run_id = this_run AND NOT coalesce({SATISFIED}, false)) THEN 'failed'
      ELSE 'succeeded' END
  WHERE id = this_run AND state IN ('running', 'cancelling')
  RETURNING id, tenant_id, state, event_seq, workflow_id, concurrency_key INTO run;
  IF NOT FOUND THEN
    RETURN;
  END IF;
  IF run.state = 'failed' THEN -- one that was reopened for a step may fail because of another one that it kept
    UPDATE runs SET error = (
      SELECT jsonb_build_object('step', key) || coalesce(steps.error, '{}') FROM steps
      WHERE run_id = this_run AND state = 'failed' AND NOT allow_failure ORDER BY position LIMIT 1
    ) WHERE id = this_run AND error IS NULL;
  END IF;
  INSERT INTO events (tenant_id, run_id, seq, type, data)
  VALUES (run.tenant_id, this_run, run.event_seq, 'run.' || run.state, '{}');
  PERFORM enqueue_deliveries(ARRAY[this_run], ARRAY['run.' || run.state]);
  PERFORM enqueue_firings(ARRAY[this_run], ARRAY['run.' || run.state]);
  PERFORM grant_key(run.workflow_id, run.concurrency_key);
END $$;
