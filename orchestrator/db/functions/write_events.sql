-- Writes events of a run whose row the caller has locked: the numbers have the order of the commits, without gaps.
-- `keys` and `attempts` are those of the steps; NULL and 0 in an event of the run.
CREATE OR REPLACE FUNCTION write_events(this_run uuid, types text[], keys text[], attempts int[])
RETURNS void LANGUAGE plpgsql AS $$
DECLARE
  tenant uuid;
  last int;
BEGIN
  UPDATE runs SET event_seq = event_seq + cardinality(types) WHERE id = this_run
  RETURNING tenant_id, event_seq - cardinality(types) INTO tenant, last;
  INSERT INTO events (tenant_id, run_id, seq, type, step, attempt, data)
  SELECT tenant, this_run, last + at, type, key, nullif(attempt, 0), '{}'
  FROM unnest(types, keys, attempts) WITH ORDINALITY AS event(type, key, attempt, at);
END $$;
