-- Records how an attempt of a step has ended, and does what follows: see `engine.attempts`. Returns nothing when the
-- attempt has ended already.
--
-- `event` and `target` are those of the step's transition; `change` has what else changes of the step.
-- The steps that become ready are published, or left to Celery, which publishes the task `continues` itself as the next
-- one of the chain. With a worker, the only step that becomes ready is claimed for it in place, if it is for one of its
-- queues and no queued step has a higher priority; `carrier` is the Celery task that the worker executes.
CREATE OR REPLACE FUNCTION finish_step(
  this_run uuid, this_step uuid, this_attempt int, this_generation int,
  event text, target text, outcome text, change jsonb, value jsonb, used jsonb, warned int, continues text,
  carrier text, this_worker text, this_thread int, its_queues text[], lease interval, grace interval,
  timeouts jsonb
) RETURNS TABLE (
  step_state text, step_error jsonb, next_step uuid, next_queue text, published jsonb, revoked text[]
) LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
  run record;
  step steps;
  successor steps;
  ready uuid[] := '{}';
  dependent text;
  unpublished uuid[];
  ends boolean := target IN ('succeeded', 'failed', 'skipped', 'cancelled');
  goes_on boolean;
  types text[] := ARRAY[event];
  keys text[];
  numbers int[];
  more_keys text[];
  more_numbers int[];
BEGIN
  SELECT state, error INTO run FROM runs WHERE id = this_run FOR UPDATE;
  UPDATE steps SET
    state = target,
    error = change -> 'error',
    result = CASE target WHEN 'succeeded' THEN value ELSE result END,
    result_artifact = coalesce(CAST(change ->> 'artifact' AS uuid), result_artifact),
    skip_cause = coalesce(change ->> 'skip_cause', skip_cause),
    losses = losses + coalesce(CAST(change ->> 'losses' AS int), 0),
    forgiven = forgiven + coalesce(CAST(change ->> 'forgiven' AS int), 0),
    max_attempts = coalesce(CAST(change ->> 'max_attempts' AS smallint), max_attempts),
    -- The scheduler publishes it again. A new generation makes copies of the old message stale: two attempts of one task
    -- would be confused when the worker of the first reports its death.
    generation = generation + CAST(target = 'queued' AS int),
    published_at = CASE WHEN ends THEN published_at END,
    queued_at = CASE target WHEN 'queued' THEN clock_timestamp() ELSE queued_at END,
    wake_at = CASE target WHEN 'waiting' THEN clock_timestamp() + CAST(change ->> 'after' AS float) * interval '1 second' ELSE wake_at END,
    finished_at = CASE WHEN ends THEN clock_timestamp() ELSE finished_at END,
    warnings = warnings + warned
  WHERE id = this_step AND attempt = this_attempt AND generation = this_generation AND state = 'running'
  RETURNING * INTO step;
  IF NOT FOUND THEN
    RETURN;
  END IF;
  UPDATE attempts SET outcome = finish_step.outcome, error = step.error, usage = used, finished_at = clock_timestamp()
  WHERE step_id = this_step AND number = this_attempt;
  IF warned > 0 THEN
    UPDATE runs SET warnings = warnings + warned WHERE id = this_run;
  END IF;
  keys := ARRAY[step.key];
  numbers := ARRAY[step.attempt];
  IF (SELECT {SATISFIED} FROM (VALUES (step.state, step.skip_cause, step.allow_failure))
      AS need(state, skip_cause, allow_failure)) THEN
    -- One by one: a statement about a list is planned at each call, which takes ten times as long as to execute it.
    FOREACH dependent IN ARRAY step.dependents LOOP
      ready := ready || ARRAY(
        SELECT id FROM steps WHERE run_id = this_run AND key = dependent AND state = 'pending' AND {NEEDS_MET});
    END LOOP;
    IF this_worker IS NOT NULL AND cardinality(ready) = 1 AND run.state = 'running' AND run.error IS NULL THEN
      UPDATE steps SET state = 'running', attempt = attempt + 1, worker = this_worker, error = NULL,
        queued_at = clock_timestamp(), published_at = clock_timestamp(), started_at = clock_timestamp(),
        generation = CASE WHEN task_id = continues THEN generation ELSE generation + 1 END,
        task_id = CASE WHEN task_id = continues THEN task_id ELSE id || '.' || (generation + 1) END
      WHERE id = ready[1] AND state = 'pending' AND queue = ANY(its_queues) AND NOT EXISTS (
        SELECT FROM steps waiting
        WHERE waiting.queue = steps.queue AND waiting.state = 'queued' AND waiting.priority > steps.priority)
      RETURNING * INTO successor;
    END IF;
    IF successor.id IS NOT NULL THEN
      PERFORM begin_attempt(successor, carrier, this_thread, lease, grace, timeouts);
      next_step := successor.id;
      types := types || CAST('step.started' AS text);
      keys := keys || successor.key;
      numbers := numbers || successor.attempt;
    ELSIF ready <> '{}' THEN
      WITH queued AS (
        UPDATE steps SET state = 'queued', queued_at = now(),
          published_at = CASE WHEN task_id = continues THEN now() END
        WHERE id = ANY(ready) AND state = 'pending' RETURNING *
      )
      SELECT array_agg(key ORDER BY position), array_agg(attempt ORDER BY position),
        array_agg(id ORDER BY position) FILTER (WHERE published_at IS NULL),
        max(queue) FILTER (WHERE published_at IS NOT NULL)
      INTO more_keys, more_numbers, unpublished, next_queue FROM queued;
      types := types || array_fill(CAST('step.queued' AS text), ARRAY[cardinality(more_keys)]);
      SELECT jsonb_agg(row) INTO published FROM publish_steps(unpublished[:{FAN_OUT}]) AS row;
    END IF;
  ELSIF target = 'failed' THEN -- no further step starts, except as its schedule says; those that run may still end
    UPDATE runs SET error = jsonb_build_object('step', step.key) || coalesce(step.error, '{}')
    WHERE id = this_run AND error IS NULL;
    goes_on := coalesce((SELECT continue_on_failure FROM runs JOIN schedules ON schedules.id = schedule_id
      WHERE runs.id = this_run), false);
    WITH RECURSIVE doomed AS (
      SELECT unnest(step.dependents) AS its_key
      UNION SELECT unnest(dependents) FROM doomed JOIN steps ON run_id = this_run AND key = its_key
    ), omitted AS (
      UPDATE steps SET state = 'skipped', skip_cause = 'upstream', finished_at = clock_timestamp()
      WHERE run_id = this_run AND (NOT goes_on OR key IN (SELECT its_key FROM doomed))
        AND state IN ('pending', 'queued', 'waiting') RETURNING *
    )
    SELECT array_agg(key ORDER BY position), array_agg(attempt ORDER BY position),
      array_agg(task_id) FILTER (WHERE task_id IS NOT NULL)
    INTO more_keys, more_numbers, revoked FROM omitted;
    types := types || array_fill(CAST('step.skipped' AS text), ARRAY[coalesce(cardinality(more_keys), 0)]);
  END IF;
  PERFORM write_events(this_run, types, keys || more_keys, numbers || more_numbers);
  IF ends AND ready = '{}' THEN
    PERFORM close_run(this_run);
  END IF;
  step_state := step.state;
  step_error := step.error;
  RETURN NEXT;
END $$;
