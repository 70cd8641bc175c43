-- The firings of schedules of type `event` for the ends of runs that this transaction has written.
CREATE OR REPLACE FUNCTION enqueue_firings(run_ids uuid[], types text[]) RETURNS void LANGUAGE plpgsql
SET plan_cache_mode = force_generic_plan AS $$
BEGIN
  INSERT INTO firings (tenant_id, schedule_id, due_at, source_run_id, source_seq)
  SELECT runs.tenant_id, schedules.id, events.occurred_at, runs.id, events.seq
  FROM unnest(run_ids) AS changed(id)
  JOIN runs ON runs.id = changed.id
  JOIN events ON events.run_id = changed.id AND events.type = ANY(types)
    AND events.tx = CAST(CAST(pg_current_xact_id() AS text) AS bigint)
  JOIN schedules ON schedules.tenant_id = runs.tenant_id AND schedules.active AND schedules.type = 'event'
    AND schedules.after_workflow = runs.workflow AND runs.state = ANY(schedules.after_states)
  FOR KEY SHARE OF schedules -- one that is being deleted is skipped, without an error
  ON CONFLICT DO NOTHING;
END $$;
