-- New runs, all of a statement at once: counted by kind and in the backlog, and their tags written as rows.
CREATE OR REPLACE FUNCTION count_new_runs() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  INSERT INTO tally_changes (tenant_id, project_id, workflow, schedule_id, state, change)
  SELECT tenant_id, project_id, workflow, schedule_id, '', count(*) FROM made
  GROUP BY tenant_id, project_id, workflow, schedule_id
  UNION ALL
  SELECT tenant_id, project_id, workflow, schedule_id, state, count(*) FROM made
  WHERE finished_at IS NOT NULL
  GROUP BY tenant_id, project_id, workflow, schedule_id, state;
  INSERT INTO backlog_changes (tenant_id, queue, priority, bucket, change)
  SELECT tenant_id, queue, priority, number >> 10, count(*) FROM made
  WHERE state = 'pending' AND due GROUP BY 1, 2, 3, 4;
  INSERT INTO run_tags (tenant_id, tag, run_id)
  SELECT DISTINCT tenant_id, unnest(tags), id FROM made WHERE tags <> '{}';
  RETURN NULL;
END $$;
CREATE OR REPLACE TRIGGER count_new AFTER INSERT ON runs REFERENCING NEW TABLE AS made
  FOR EACH STATEMENT EXECUTE FUNCTION count_new_runs();
