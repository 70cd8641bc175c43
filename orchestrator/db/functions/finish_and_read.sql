-- `finish_step`, with all that is needed to execute the step that it has claimed in place. The plan of the two together
-- takes longer than either: here Postgres keeps it.
CREATE OR REPLACE FUNCTION finish_and_read(
  this_run uuid, this_step uuid, this_attempt int, this_generation int,
  event text, target text, outcome text, change jsonb, value jsonb, used jsonb, warned int, continues text,
  carrier text, this_worker text, this_thread int, its_queues text[], lease interval, grace interval,
  timeouts jsonb
) RETURNS TABLE (
  step_state text, step_error jsonb, next_step uuid, next_queue text, published jsonb, revoked text[],
  step_id uuid, attempt int, generation int, started_at timestamptz, run_id uuid, tenant_id uuid, workflow text,
  key text, uses text, retries int, spec jsonb, params jsonb, number bigint, trigger text, logical_date timestamptz,
  variables jsonb, event_variables jsonb, run_as text, environment text, read jsonb
) LANGUAGE plpgsql AS $$
#variable_conflict use_column
BEGIN
  RETURN QUERY SELECT * FROM finish_step(
    this_run, this_step, this_attempt, this_generation, event, target, outcome, change, value, used, warned, continues,
    carrier, this_worker, this_thread, its_queues, lease, grace, timeouts
  ) finished LEFT JOIN LATERAL read_claim(finished.next_step) ON true;
END $$;
