-- All that is needed to execute the attempt of a step that was claimed. VOLATILE, so that it sees what the functions
-- before it in the same statement have written.
CREATE OR REPLACE FUNCTION read_claim(this_step uuid) RETURNS TABLE (
  step_id uuid, attempt int, generation int, started_at timestamptz, run_id uuid, tenant_id uuid, workflow text,
  key text, uses text, retries int, spec jsonb, params jsonb, number bigint, trigger text, logical_date timestamptz,
  variables jsonb, event_variables jsonb, run_as text, environment text, read jsonb
) LANGUAGE plpgsql STRICT AS $$
#variable_conflict use_column
BEGIN
  RETURN QUERY SELECT steps.id, steps.attempt, steps.generation, steps.started_at, steps.run_id, steps.tenant_id,
    runs.workflow, steps.key, steps.uses, steps.attempt - 1 - forgiven - losses, spec, params, runs.number,
    runs.trigger, logical_date, variables, event_variables, run_as, environment,
    (SELECT jsonb_agg(jsonb_build_array(key, result, result_artifact)) FROM steps result
     WHERE result.run_id = runs.id AND key = ANY(ARRAY(SELECT jsonb_array_elements_text(steps.spec -> 'reads'))))
  FROM steps JOIN runs ON runs.id = steps.run_id WHERE steps.id = this_step;
END $$;
