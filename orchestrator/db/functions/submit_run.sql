-- A new run, which is admitted at once if it may start: as `view_run` shows it, the messages to send, and whether a
-- subscriber waits for its creation. No row if its columns were made from a version that is not, or no longer, the one
-- of the workflow of that name: without a number that is the latest.
CREATE OR REPLACE FUNCTION submit_run(new_run jsonb, named int, most int)
RETURNS TABLE (run runs, steps json, usage json, wait json, published json, is_awaited boolean) LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
  made runs;
BEGIN
  IF NOT EXISTS (
      SELECT FROM jsonb_to_record(new_run) AS new(tenant_id uuid, workflow_id uuid, version_id uuid, project_id uuid,
        workflow text)
      JOIN workflows ON workflows.id = new.workflow_id AND workflows.tenant_id = new.tenant_id
        AND workflows.name = new.workflow AND workflows.project_id = new.project_id
      JOIN versions ON versions.id = new.version_id AND versions.workflow_id = workflows.id
        AND versions.number = coalesce(named, workflows.version)) THEN
    RETURN;
  END IF;
  SELECT * INTO STRICT made FROM insert_runs(jsonb_build_array(new_run), most);
  published := (
    SELECT json_agg(json_build_object('chain', first.position, 'key', step.key, 'task_id', step.task_id,
      'queue', step.queue, 'priority', step.priority, 'attempt', 0, 'workflow', made.workflow)
      ORDER BY first.position, at)
    FROM steps first, unnest(first.key || first.followers) WITH ORDINALITY AS line(key, at)
    JOIN steps step ON step.run_id = made.id AND step.key = line.key
    WHERE first.run_id = made.id AND first.published_at IS NOT NULL);
  is_awaited := made.notifications IS NOT NULL OR EXISTS (
    SELECT FROM webhooks WHERE tenant_id = made.tenant_id AND active AND 'run.created' = ANY(events));
  RETURN QUERY SELECT view.run, view.steps, view.usage, view.wait, submit_run.published, submit_run.is_awaited
    FROM view_run(made.id, made.tenant_id) view;
END $$;
