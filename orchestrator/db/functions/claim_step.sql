-- Claims one attempt of a step, and begins its run; returns the step's id, or nothing for a stale message. Losing a
-- claim in a crash of Postgres is harmless, so its commit does not wait for the disk.
CREATE OR REPLACE FUNCTION claim_step(
  this_step uuid, this_generation int, this_worker text, this_thread int, its_queues text[], lease interval,
  grace interval, timeouts jsonb
) RETURNS SETOF uuid LANGUAGE plpgsql AS $$
DECLARE
  run record;
  last int; -- number of the last event
  step steps;
BEGIN
  PERFORM set_config('synchronous_commit', 'off', true);
  SELECT id, state INTO run FROM runs WHERE id = (SELECT run_id FROM steps WHERE id = this_step) FOR UPDATE;
  IF NOT FOUND OR run.state NOT IN ('queued', 'running') THEN
    RETURN;
  END IF;
  UPDATE steps SET state = 'running', attempt = attempt + 1, worker = this_worker, started_at = clock_timestamp(),
    error = NULL
  WHERE id = this_step AND generation = this_generation AND state = 'queued'
    AND (its_queues IS NULL OR queue = ANY(its_queues))
  RETURNING * INTO step;
  IF NOT FOUND THEN
    RETURN;
  END IF;
  PERFORM begin_attempt(step, step.task_id, this_thread, lease, grace, timeouts);
  IF run.state = 'queued' THEN
    UPDATE runs SET state = 'running', started_at = step.started_at, deadline_at = step.started_at + timeout,
      event_seq = event_seq + 2
    WHERE id = run.id RETURNING event_seq INTO last;
    INSERT INTO events (tenant_id, run_id, seq, type, step, attempt, data)
    VALUES (step.tenant_id, run.id, last - 1, 'run.started', NULL, NULL, '{}'),
      (step.tenant_id, run.id, last, 'step.started', step.key, step.attempt, '{}');
    PERFORM enqueue_deliveries(ARRAY[run.id], ARRAY['run.started']);
  ELSE
    PERFORM write_events(run.id, ARRAY['step.started'], ARRAY[step.key], ARRAY[step.attempt]);
  END IF;
  RETURN NEXT step.id;
END $$;
