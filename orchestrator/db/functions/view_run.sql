-- A run with all that an answer shows of it: its steps with the output and the usage of their last attempt, what all
-- attempts used, and its place if it waits. What is read of each step is LATERAL with LIMIT or OFFSET, which allow one
-- plan only: one that was cached while the tables were small read all attempts for each step.
CREATE OR REPLACE FUNCTION view_run(wanted uuid, owner uuid)
RETURNS TABLE (run runs, steps json, usage json, wait json) LANGUAGE plpgsql STABLE AS $$
#variable_conflict use_column
BEGIN
  SELECT * INTO run FROM runs WHERE id = wanted AND tenant_id = owner;
  IF NOT FOUND THEN
    RETURN;
  END IF;
  steps := (
    SELECT json_agg(step ORDER BY position) FROM (
      SELECT steps.id, number, position, key, name, uses, needs, state, skip_cause, attempt, max_attempts, queue,
        priority, allow_failure, worker, result, result_artifact, warnings, error, wake_at, queued_at, started_at,
        finished_at, output.progress, output.stage, output.message, output.metrics, output.warning_list, output.data,
        attempts.usage, reached.furthest, estimates.seconds,
        CAST(extract(epoch FROM now() - steps.started_at) AS float) AS elapsed,
        CAST(extract(epoch FROM steps.wake_at - now()) AS float) AS wakes_in
      FROM steps
      LEFT JOIN LATERAL (
        SELECT progress, stage, message, metrics, warnings AS warning_list, data FROM outputs
        WHERE run.started_at IS NOT NULL AND step_id = steps.id AND attempt = steps.attempt LIMIT 1
      ) output ON true
      LEFT JOIN LATERAL (
        SELECT max(progress) AS furthest FROM outputs
        WHERE run.started_at IS NOT NULL AND step_id = steps.id AND steps.state <> 'succeeded'
          AND updated_at >= run.started_at
      ) reached ON true
      LEFT JOIN LATERAL (
        SELECT usage FROM attempts
        WHERE run.started_at IS NOT NULL AND step_id = steps.id AND number = steps.attempt LIMIT 1
      ) attempts ON true
      LEFT JOIN LATERAL (
        SELECT seconds FROM estimates
        WHERE workflow_id = run.workflow_id AND step = steps.key AND steps.finished_at IS NULL LIMIT 1
      ) estimates ON true
      WHERE run_id = wanted
    ) step);
  IF run.started_at IS NOT NULL THEN
    usage := (
      SELECT to_json(used) FROM (
        SELECT sum(CAST(usage ->> 'cpu_seconds' AS float)) AS cpu_seconds,
          max(CAST(usage ->> 'peak_memory_bytes' AS bigint)) AS peak_memory_bytes,
          CAST(sum(CAST(usage ->> 'read_bytes' AS bigint)) AS bigint) AS read_bytes,
          CAST(sum(CAST(usage ->> 'write_bytes' AS bigint)) AS bigint) AS write_bytes,
          CAST(sum(CAST(usage ->> 'io_operations' AS bigint)) AS bigint) AS io_operations,
          (array_agg(attempts.worker ORDER BY attempts.started_at DESC))[1] AS worker
        FROM steps, LATERAL (SELECT * FROM attempts WHERE step_id = steps.id OFFSET 0) attempts
        WHERE steps.run_id = wanted
        HAVING count(*) > 0
      ) used);
  END IF;
  IF run.state = 'queued' OR run.state = 'pending' AND run.due THEN
    wait := (
      SELECT to_json(wait) FROM (
        SELECT place.position, outlook.pace, outlook.free, outlook.capacity,
          (SELECT seconds FROM estimates
           WHERE workflow_id = run.workflow_id AND step = '' AND tenant_id = owner LIMIT 1) AS typical
        FROM place_of_run(wanted, owner) place, queue_outlook(owner, ARRAY[place.queue]) outlook
      ) wait);
  END IF;
  RETURN NEXT;
END $$;
