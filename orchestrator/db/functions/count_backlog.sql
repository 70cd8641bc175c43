-- Exact positions in a backlog of any length: a run that begins or ends to wait is counted by appending, in spans
-- of 1024 numbers. `monitoring.backlog` folds what was appended.
CREATE OR REPLACE FUNCTION count_backlog() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF OLD.state = 'pending' AND OLD.due THEN
    INSERT INTO backlog_changes (tenant_id, queue, priority, bucket, change)
    VALUES (OLD.tenant_id, OLD.queue, OLD.priority, OLD.number >> 10, -1);
  END IF;
  IF TG_OP <> 'DELETE' AND NEW.state = 'pending' AND NEW.due THEN
    INSERT INTO backlog_changes (tenant_id, queue, priority, bucket, change)
    VALUES (NEW.tenant_id, NEW.queue, NEW.priority, NEW.number >> 10, 1);
  END IF;
  RETURN NULL;
END $$;
CREATE OR REPLACE TRIGGER backlog_delete AFTER DELETE ON runs FOR EACH ROW
  WHEN (OLD.state = 'pending' AND OLD.due) EXECUTE FUNCTION count_backlog();
CREATE OR REPLACE TRIGGER backlog_update AFTER UPDATE OF state, due, priority, queue ON runs FOR EACH ROW
  WHEN (OLD.state = 'pending' AND OLD.due OR NEW.state = 'pending' AND NEW.due)
  EXECUTE FUNCTION count_backlog();
