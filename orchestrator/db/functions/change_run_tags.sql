-- A tag is a row of `run_tags`: row-level security forbids an index into the array.
CREATE OR REPLACE FUNCTION change_run_tags() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  DELETE FROM run_tags WHERE run_id = NEW.id;
  INSERT INTO run_tags (tenant_id, tag, run_id)
  SELECT DISTINCT NEW.tenant_id, unnest(NEW.tags), NEW.id;
  RETURN NULL;
END $$;
CREATE OR REPLACE TRIGGER change_tags AFTER UPDATE OF tags ON runs FOR EACH ROW
  WHEN (OLD.tags IS DISTINCT FROM NEW.tags) EXECUTE FUNCTION change_run_tags();
