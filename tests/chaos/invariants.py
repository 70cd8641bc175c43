"""Queries that must find nothing, whatever happened before."""

from sqlalchemy import Engine, text

INVARIANTS = {
    "an ended run has an open step": """
        SELECT steps.id FROM steps JOIN runs ON runs.id = steps.run_id
        WHERE runs.state IN ('succeeded', 'failed', 'timed_out', 'cancelled')
          AND steps.state IN ('pending', 'queued', 'running', 'waiting')
    """,
    "a run goes on without an open step": """
        SELECT id FROM runs WHERE state IN ('queued', 'running', 'cancelling') AND NOT EXISTS (
            SELECT FROM steps WHERE steps.run_id = runs.id
              AND steps.state IN ('pending', 'queued', 'running', 'waiting'))
    """,
    "a running step has no attempt that runs": """
        SELECT id FROM steps WHERE state = 'running' AND NOT EXISTS (
            SELECT FROM attempts WHERE step_id = steps.id AND number = steps.attempt
              AND outcome IS NULL)
    """,
    "an attempt runs for a step that does not": """
        SELECT step_id FROM attempts JOIN steps ON steps.id = step_id
        WHERE outcome IS NULL AND (steps.state <> 'running' OR steps.attempt <> attempts.number)
    """,
    "a step is recorded as succeeded twice": """
        SELECT step_id FROM attempts JOIN steps ON steps.id = step_id
        WHERE outcome = 'succeeded' GROUP BY step_id, steps.run_id, steps.key
        HAVING count(*) > 1 + (SELECT count(*) FROM events WHERE events.run_id = steps.run_id
            AND events.step = steps.key AND events.type = 'step.reset')
    """,
    "a run's events have a gap": """
        SELECT run_id FROM events GROUP BY run_id HAVING max(seq) <> count(*) OR min(seq) <> 1
    """,
    "a run's last event is not the last number": """
        SELECT id FROM runs WHERE event_seq <>
            (SELECT coalesce(max(seq), 0) FROM events WHERE run_id = runs.id)
    """,
    "a step starts after its run has ended": """
        SELECT late.id FROM events late JOIN events ending USING (run_id)
        WHERE ending.type IN ('run.succeeded', 'run.failed', 'run.timed_out', 'run.cancelled')
          AND late.type = 'step.started' AND late.seq > ending.seq
          AND NOT EXISTS (SELECT FROM events again WHERE again.run_id = late.run_id
              AND again.type = 'run.reopened' AND again.seq BETWEEN ending.seq AND late.seq)
    """,
}


def broken(engine: Engine) -> dict[str, list[object]]:
    """What does not hold, and the rows that show it."""
    with engine.connect() as connection:
        found = {
            name: [row[0] for row in connection.execute(text(query))]
            for name, query in INVARIANTS.items()
        }
    return {name: rows for name, rows in found.items() if rows}
