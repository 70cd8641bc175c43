-- Runs are counted per workflow, too: each workflow has a sequence, which its first run makes, for the reason that each
-- tenant has one of each table (`assign_number`). The runs of an earlier release have none.
CREATE OR REPLACE FUNCTION assign_ordinal() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
DECLARE
  name text := 'ordinals_of_' || replace(CAST(NEW.workflow_id AS text), '-', '');
BEGIN
  IF to_regclass(name) IS NULL THEN
    PERFORM pg_advisory_xact_lock(hashtextextended(name, 0));
    EXECUTE format('CREATE SEQUENCE IF NOT EXISTS %I', name);
  END IF;
  NEW.ordinal := nextval(name);
  RETURN NEW;
END $$;
-- Earlier migrations create all functions, too, when there is no such column yet.
DO $$ BEGIN
  EXECUTE format('ALTER FUNCTION assign_ordinal SET search_path = %I, pg_temp', current_schema());
  IF EXISTS (SELECT FROM pg_attribute WHERE attrelid = CAST('runs' AS regclass) AND attname = 'ordinal') THEN
    CREATE OR REPLACE TRIGGER assign_ordinal BEFORE INSERT ON runs FOR EACH ROW
      WHEN (NEW.ordinal IS NULL) EXECUTE FUNCTION assign_ordinal();
  END IF;
END $$;
