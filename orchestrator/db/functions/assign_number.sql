-- A number counts the rows of one tenant: one that counts all would tell each tenant how much the others do. Each
-- tenant has a sequence for each table, which its first row makes. So no submission waits for the commit of another
-- one, as it would for a counter's row, and numbers go up, with gaps.
--
-- It runs as the owner of the tables, who may create sequences.
CREATE OR REPLACE FUNCTION assign_number() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
DECLARE
  name text := TG_TABLE_NAME || '_of_' || replace(CAST(NEW.tenant_id AS text), '-', '');
BEGIN
  IF to_regclass(name) IS NULL THEN
    PERFORM pg_advisory_xact_lock(hashtextextended(name, 0));
    EXECUTE format('CREATE SEQUENCE IF NOT EXISTS %I', name);
  END IF;
  NEW.number := nextval(name);
  RETURN NEW;
END $$;
DO $$ DECLARE each text; BEGIN
  EXECUTE format('ALTER FUNCTION assign_number SET search_path = %I, pg_temp', current_schema());
  FOREACH each IN ARRAY ARRAY['runs', 'steps', 'artifacts', 'schedules', 'backfills', 'workflows', 'projects',
      'webhooks'] LOOP
    EXECUTE format('CREATE OR REPLACE TRIGGER assign_number BEFORE INSERT ON %I FOR EACH ROW
      WHEN (NEW.number IS NULL) EXECUTE FUNCTION assign_number()', each);
  END LOOP;
END $$;
