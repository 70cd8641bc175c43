-- Gives each of these steps, and those that follow it linearly, the message of a new generation: messages of older ones
-- are stale from then on. `chain` is the step that the message is published with; a step that cannot be published ends
-- its chain.
CREATE OR REPLACE FUNCTION publish_steps(these uuid[]) RETURNS TABLE (
  chain uuid, task_id text, queue text, priority smallint, workflow text, key text, attempt int
) LANGUAGE plpgsql AS $$
#variable_conflict use_column
BEGIN
  RETURN QUERY WITH place AS (
    SELECT head.id AS chain, head.run_id, line.key, line.at, head_at
    FROM unnest(these) WITH ORDINALITY AS each(id, head_at) JOIN steps head ON head.id = each.id,
      LATERAL unnest(head.key || head.followers) WITH ORDINALITY AS line(key, at)
  ), published AS (
    UPDATE steps SET generation = steps.generation + 1, task_id = steps.id || '.' || (steps.generation + 1),
      published_at = CASE WHEN steps.state = 'queued' THEN now() END
    FROM place WHERE steps.run_id = place.run_id AND steps.key = place.key AND steps.state IN ('pending', 'queued')
    RETURNING place.chain, place.at, place.head_at, steps.run_id, steps.task_id, steps.queue, steps.priority, steps.key,
      steps.attempt
  )
  SELECT published.chain, published.task_id, published.queue, published.priority, runs.workflow, published.key,
    published.attempt
  FROM (SELECT *, row_number() OVER (PARTITION BY chain ORDER BY at) AS number FROM published) published
  JOIN runs ON runs.id = published.run_id
  WHERE published.number = published.at ORDER BY head_at, at;
END $$;
