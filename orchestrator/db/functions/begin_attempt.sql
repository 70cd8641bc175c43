-- An attempt of a step that was just claimed: `task` is the Celery task that carries it, whose worker's parent process
-- renews the lease. It is killed after the step's timeout plus the grace; `timeouts` has the seconds of steps without a
-- timeout, by the name of the handler.
CREATE OR REPLACE FUNCTION begin_attempt(
  step steps, task text, this_thread int, lease interval, grace interval, timeouts jsonb
) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  INSERT INTO attempts (step_id, number, run_id, task_id, worker, thread, started_at, lease_until, kill_at)
  VALUES (step.id, step.attempt, step.run_id, task, step.worker, this_thread, step.started_at, clock_timestamp() + lease,
    clock_timestamp() + grace
      + CAST(coalesce(step.spec ->> 'timeout', timeouts ->> step.uses) AS float) * interval '1 second');
END $$;
