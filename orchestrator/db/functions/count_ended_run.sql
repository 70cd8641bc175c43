-- How many runs there are of each kind and final state: a run that ends, goes on again or is deleted is counted by
-- appending. `monitoring.run_counts` folds what was appended.
CREATE OR REPLACE FUNCTION count_ended_run() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF TG_OP = 'DELETE' THEN
    INSERT INTO tally_changes (tenant_id, project_id, workflow, schedule_id, state, change)
    VALUES (OLD.tenant_id, OLD.project_id, OLD.workflow, OLD.schedule_id, '', -1);
  END IF;
  IF OLD.finished_at IS NOT NULL THEN
    INSERT INTO tally_changes (tenant_id, project_id, workflow, schedule_id, state, change)
    VALUES (OLD.tenant_id, OLD.project_id, OLD.workflow, OLD.schedule_id, OLD.state, -1);
  END IF;
  IF TG_OP <> 'DELETE' AND NEW.finished_at IS NOT NULL THEN
    INSERT INTO tally_changes (tenant_id, project_id, workflow, schedule_id, state, change)
    VALUES (NEW.tenant_id, NEW.project_id, NEW.workflow, NEW.schedule_id, NEW.state, 1);
  END IF;
  RETURN NULL;
END $$;
CREATE OR REPLACE TRIGGER tally_delete AFTER DELETE ON runs FOR EACH ROW EXECUTE FUNCTION count_ended_run();
CREATE OR REPLACE TRIGGER tally_update AFTER UPDATE OF state ON runs FOR EACH ROW
  WHEN (OLD.finished_at IS NOT NULL OR NEW.finished_at IS NOT NULL)
  EXECUTE FUNCTION count_ended_run();
