-- Gives a concurrency key that no run holds to the run that has waited longest for it; returns how many got it: 0 or 1.
-- A slot goes to the run that has waited longest for any of the slots of its schedule.
CREATE OR REPLACE FUNCTION grant_key(this_workflow uuid, this_key text) RETURNS int LANGUAGE plpgsql AS $$
DECLARE
  granted int;
BEGIN
  IF this_key IS NULL THEN
    RETURN 0;
  END IF;
  UPDATE runs SET due = true, concurrency_key = this_key WHERE id = (
    SELECT id FROM runs WHERE workflow_id = this_workflow AND concurrency_key = ANY(ARRAY(SELECT slots_of(this_key)))
      AND concurrency_key IS NOT NULL AND state = 'pending' AND NOT due AND NOT held
      AND (run_at IS NULL OR run_at <= now())
    ORDER BY number LIMIT 1 FOR UPDATE SKIP LOCKED
  ) AND NOT EXISTS (
    SELECT FROM runs holder WHERE holder.workflow_id = this_workflow AND holder.concurrency_key = this_key
      AND (state = 'pending' AND due OR state IN ('queued', 'running', 'cancelling'))
  );
  GET DIAGNOSTICS granted = ROW_COUNT;
  RETURN granted;
END $$;
