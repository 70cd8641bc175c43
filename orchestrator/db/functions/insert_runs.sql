-- New runs with their steps and their first events, from a JSON array of their columns.
--
-- With the window of its queue, a single run that may start is made as it would be after
-- RunTransition.ADMIT, StepTransition.READY and `publish`, with their events: an UPDATE right after the INSERT would
-- write each of the indexes of `runs` again. Without, all of them wait.
--
-- A step's id has the first 18 characters of its run's, so that ids of steps are in order of time. The steps of a plan
-- that need nothing but disabled ones are ready: no other step of a new run has a state that satisfies one.
CREATE OR REPLACE FUNCTION insert_runs(new_runs jsonb, most int DEFAULT NULL)
RETURNS SETOF runs LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
  starts boolean := false;
  disabled text[] := '{}';
  ready int := 0;
BEGIN
  IF most IS NOT NULL THEN
    SELECT due AND coalesce(run_at <= now(), true) AND may_start(id, queue, priority, most) INTO STRICT starts
    FROM jsonb_to_recordset(new_runs) AS new(id uuid, queue text, priority int, due boolean, run_at timestamptz);
  END IF;
  IF starts THEN
    SELECT coalesce(array_agg(step.key) FILTER (WHERE NOT step.enabled), '{}') INTO disabled
    FROM jsonb_to_recordset(new_runs) AS new(version_id uuid) JOIN versions ON versions.id = new.version_id,
      jsonb_to_recordset(versions.plan) AS step(key text, enabled boolean);
    SELECT count(*) INTO ready
    FROM jsonb_to_recordset(new_runs) AS new(version_id uuid) JOIN versions ON versions.id = new.version_id,
      jsonb_to_recordset(versions.plan) AS step(needs text[], enabled boolean)
    WHERE step.enabled AND step.needs <@ disabled;
  END IF;

  INSERT INTO runs (id, tenant_id, workflow_id, version_id, project_id, workflow, version, priority, queue, params,
      tags, timeout, held, trigger, source_type, source_id, reason, submitted_by, run_as, environment, name,
      description, annotations, variables, event_variables, notifications, concurrency_key, schedule_id,
      backfill_id, logical_date, depth, run_at, retry_of, timed_out, due, late_at, state, queued_at, event_seq)
  SELECT id, tenant_id, workflow_id, version_id, project_id, workflow, version, priority, queue, params,
      tags, timeout, held, trigger, source_type, source_id, reason, submitted_by, run_as, environment, name,
      description, annotations, variables, event_variables, notifications, concurrency_key, schedule_id,
      backfill_id, logical_date, depth, run_at, retry_of, false, due AND coalesce(run_at <= now(), true),
      -- None after the year 9999.
      CASE WHEN sla < timestamptz '10000-01-01 00:00:00+00' - coalesce(run_at, now())
        THEN coalesce(run_at, now()) + sla END,
      CASE WHEN starts THEN 'queued' ELSE 'pending' END, CASE WHEN starts THEN now() END,
      CASE WHEN starts THEN 2 + ready ELSE 1 END
  FROM jsonb_to_recordset(new_runs) AS new(id uuid, tenant_id uuid, workflow_id uuid, version_id uuid,
      project_id uuid, workflow text, version int, priority int, queue text, params jsonb, tags text[],
      timeout interval, held boolean, trigger text, source_type text, source_id text, reason text,
      submitted_by text, run_as text, environment text, name text, description text, annotations jsonb,
      variables jsonb, event_variables jsonb, notifications jsonb, concurrency_key text, schedule_id uuid,
      backfill_id uuid, logical_date timestamptz, depth int, run_at timestamptz, retry_of uuid, due boolean,
      sla interval)
  ORDER BY id;

  INSERT INTO steps (id, tenant_id, run_id, position, key, name, uses, needs, dependents, followers, state,
      skip_cause, attempt, losses, forgiven, max_attempts, generation, task_id, queue, priority, allow_failure, spec,
      queued_at, published_at, finished_at)
  WITH plan AS MATERIALIZED (
    SELECT *, heads AND row_number() OVER (PARTITION BY version_id, heads ORDER BY position) <= {FAN_OUT} AS published
    FROM (
      SELECT versions.id AS version_id, step.*, starts AND step.enabled AND step.needs <@ disabled AS heads
      FROM versions, jsonb_to_recordset(versions.plan) AS step(position int, key text, name text, uses text,
          needs text[], dependents text[], followers text[], queue text, priority int, max_attempts int,
          allow_failure boolean, enabled boolean, spec jsonb)
      WHERE versions.id IN (SELECT version_id FROM jsonb_to_recordset(new_runs) AS new(version_id uuid))
    ) step
  ), made AS (
    SELECT CAST(left(CAST(run.id AS text), 18) || right(gen_random_uuid()::text, 18) AS uuid) AS id,
      run.id AS run_id, run.tenant_id, run.queue AS run_queue, run.priority AS run_priority, plan.*,
      plan.published OR plan.key = ANY(ARRAY(SELECT unnest(followers) FROM plan WHERE published)) AS chained
    FROM jsonb_to_recordset(new_runs) AS run(id uuid, tenant_id uuid, version_id uuid, queue text, priority int)
    JOIN plan ON plan.version_id = run.version_id
  )
  SELECT id, tenant_id, run_id, position, key, name, uses, needs, dependents, followers,
    CASE WHEN NOT enabled THEN 'skipped' WHEN heads THEN 'queued' ELSE 'pending' END,
    CASE WHEN NOT enabled THEN 'disabled' END, 0, 0, 0, max_attempts, CASE WHEN chained THEN 1 ELSE 0 END,
    CASE WHEN chained THEN id || '.1' END, coalesce(queue, run_queue), coalesce(priority, run_priority),
    allow_failure, spec, CASE WHEN heads THEN now() END, CASE WHEN published THEN now() END,
    CASE WHEN NOT enabled THEN now() END
  FROM made ORDER BY run_id, position;

  INSERT INTO events (tenant_id, run_id, seq, type, data)
  SELECT tenant_id, id, 1, 'run.created', '{}'
  FROM jsonb_to_recordset(new_runs) AS new(id uuid, tenant_id uuid) ORDER BY id;
  IF starts THEN
    INSERT INTO events (tenant_id, run_id, seq, type, step, data)
    SELECT tenant_id, id, 2, 'run.queued', NULL, '{}'
    FROM jsonb_to_recordset(new_runs) AS new(id uuid, tenant_id uuid)
    UNION ALL
    SELECT * FROM (
      SELECT tenant_id, run_id, 2 + row_number() OVER (ORDER BY position), 'step.queued', key, CAST('{}' AS jsonb)
      FROM steps WHERE run_id = (SELECT id FROM jsonb_to_recordset(new_runs) AS new(id uuid)) AND state = 'queued'
      ORDER BY position
    ) step;
  END IF;
  RETURN QUERY SELECT runs.* FROM jsonb_to_recordset(new_runs) AS new(id uuid) JOIN runs USING (id) ORDER BY id;
END $$;
