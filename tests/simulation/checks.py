"""Checks of the rows: at any moment, after an admission, and when everything has ended."""

from sqlalchemy import Connection

from orchestrator.maintenance.invariants import INVARIANTS

_HOLDS = "(state = 'pending' AND due OR state IN ('queued', 'running', 'cancelling'))"
# The number of the last attempt before the last retry of the step.
_BASE = """
    coalesce((SELECT max(attempt) FROM events WHERE events.run_id = steps.run_id
              AND events.step = steps.key AND events.type = 'step.reset'), 0)
"""
_COUNT = "(SELECT count(*) FROM attempts WHERE step_id = steps.id AND {})"
_FAILURES = _COUNT.format(f"outcome = 'failed' AND number > {_BASE}")
_KINDS = "(spec #> '{retry,on}')"

ALWAYS = INVARIANTS | {
    "two runs hold a concurrency key": f"""
        SELECT concurrency_key FROM runs WHERE concurrency_key IS NOT NULL AND {_HOLDS}
        GROUP BY workflow_id, concurrency_key HAVING count(*) > 1
    """,
    "attempts have a gap": f"""
        SELECT id FROM steps WHERE attempt <> {_COUNT.format("true")}
          OR attempt <> coalesce((SELECT max(number) FROM attempts WHERE step_id = steps.id), 0)
    """,
    "a step is tried more often than its policy says": f"""
        SELECT id FROM steps WHERE {_FAILURES} > max_attempts
    """,
    "losses are not counted, or something else is": f"""
        SELECT id FROM steps WHERE losses <> {
        _COUNT.format(f"outcome = 'lost' AND error ->> 'kind' <> 'HandedBack' AND number > {_BASE}")
    }
          OR losses > 3 OR losses = 3 AND state <> 'failed'
    """,
    "what was handed back is not forgiven, or something else is": f"""
        SELECT id FROM steps WHERE forgiven <> {_BASE} + {
        _COUNT.format(f"error ->> 'kind' = 'HandedBack' AND number > {_BASE}")
    }
    """,
    "a step is quarantined too early": """
        SELECT id FROM steps WHERE error ->> 'kind' = 'Quarantined' AND losses < 3
    """,
    "a step failed before its policy was spent": f"""
        SELECT steps.id FROM steps JOIN runs ON runs.id = run_id
        WHERE steps.state = 'failed' AND steps.attempt > 0 AND {_FAILURES} < max_attempts
          AND (runs.error ->> 'step' = steps.key AND runs.state = 'failed'
               OR runs.state = 'succeeded')
          AND steps.error ->> 'kind' NOT IN ('FailStep', 'Quarantined')
          AND ({_KINDS} IS NULL OR jsonb_array_length({_KINDS}) = 0
               OR {_KINDS} ? (steps.error ->> 'kind'))
    """,
    "a step that has ended went on without having been reset": """
        SELECT step FROM (
            SELECT step, type, lag(type) OVER (PARTITION BY run_id, step ORDER BY seq) AS last
            FROM events WHERE step IS NOT NULL
        ) told WHERE type <> 'step.reset'
          AND last IN ('step.succeeded', 'step.failed', 'step.skipped', 'step.cancelled')
    """,
    "a step started before its needs had ended": """
        SELECT started.id FROM events started
        JOIN steps ON steps.run_id = started.run_id AND steps.key = started.step
        CROSS JOIN LATERAL unnest(steps.needs) AS wanted(key)
        JOIN steps need ON need.run_id = steps.run_id AND need.key = wanted.key
        WHERE started.type = 'step.started' AND need.attempt > 0 AND (
            SELECT type IN ('step.succeeded', 'step.skipped')
                OR type = 'step.failed' AND need.allow_failure
            FROM events last WHERE last.run_id = need.run_id AND last.step = need.key
              AND last.seq < started.seq ORDER BY seq DESC LIMIT 1) IS NOT TRUE
          AND started.seq > coalesce((SELECT max(seq) FROM events again
              WHERE again.run_id = need.run_id AND again.type = 'run.reopened'
                AND NOT EXISTS (SELECT FROM events reset WHERE reset.run_id = need.run_id
                    AND reset.step = need.key AND reset.type = 'step.reset'
                    AND reset.seq > again.seq)), 0)
    """,
    "a change of state has no event": """
        SELECT id FROM steps LEFT JOIN LATERAL (
            SELECT type FROM events WHERE events.run_id = steps.run_id AND step = steps.key
            ORDER BY seq DESC LIMIT 1) last ON true
        WHERE attempt > 0 AND (type = 'step.' || state
            OR type = 'step.started' AND state = 'running'
            OR type = 'step.reset' AND state = 'pending'
            OR type IN ('step.rescued', 'step.handed_back') AND state = 'queued') IS NOT TRUE
    """,
    "an attempt went silent although its lease was good": """
        SELECT step_id FROM attempts
        WHERE error ->> 'message' LIKE '%went silent%' AND finished_at < lease_until
    """,
    "a timeout is called a loss": """
        SELECT step_id FROM attempts WHERE outcome = 'lost' AND kill_at < finished_at
    """,
    "a timeout is called a cancel": """
        SELECT id FROM runs WHERE timed_out AND state = 'cancelled'
    """,
    "a run's outcome is not that of its steps": """
        SELECT runs.id FROM runs JOIN steps ON steps.run_id = runs.id
        WHERE runs.state = 'succeeded' AND (steps.state = 'cancelled'
           OR steps.state = 'failed' AND NOT allow_failure
           OR steps.state = 'skipped' AND skip_cause = 'upstream')
    """,
}
_ALL = "WITH run AS MATERIALIZED (SELECT * FROM runs) " + " UNION ALL ".join(
    f"SELECT $${name}$$ AS name, CAST(row_to_json(found) AS text) AS row FROM ({query}) found"
    for name, query in ALWAYS.items()
)
_OPEN = """
    SELECT id, workflow, state FROM runs
    WHERE state NOT IN ('succeeded', 'failed', 'timed_out', 'cancelled')
"""


def check(connection: Connection) -> None:
    """Raise AssertionError for violations."""
    broken = [tuple(row) for row in _all(connection, "everything", _ALL)]
    assert not broken, f"broken: {broken}"


def open_runs(connection: Connection) -> list[object]:
    """The runs that have not ended."""
    return list(_all(connection, "still_open", _OPEN))


def successes(connection: Connection) -> set[object]:
    """Step and attempt of every success in the database."""
    statement = "SELECT step_id, number FROM attempts WHERE outcome = 'succeeded'"
    return {tuple(row) for row in _all(connection, "successes", statement)}


def unclaimed(connection: Connection) -> int:
    """The number of published messages that are not claimed."""
    statement = "SELECT count(*) FROM steps WHERE state = 'queued' AND published_at IS NOT NULL"
    return int(_all(connection, "unclaimed", statement)[0][0])


def overtaken(connection: Connection, now: object) -> list[object]:
    """Waiting runs of a higher priority than one that was admitted at `now`."""
    statement = """
        SELECT waiting.id FROM runs waiting, runs admitted
        WHERE waiting.state = 'pending' AND waiting.due AND admitted.queued_at = $1
          AND admitted.state = 'queued' AND admitted.queue = waiting.queue
          AND waiting.priority > admitted.priority
    """
    return list(_all(connection, "overtaken(timestamptz)", statement, now))


def _all(connection: Connection, name: str, sql: str, *args: object) -> list[tuple[object, ...]]:
    """The rows of a statement that is prepared once for each connection."""
    prepared = connection.info.setdefault("prepared", set())
    statement = f"simulation_{name.split('(', maxsplit=1)[0]}"
    if statement not in prepared:
        connection.exec_driver_sql(f"PREPARE simulation_{name} AS {sql}".replace("%", "%%"))
        prepared.add(statement)
    placeholders = f"({', '.join(['%s'] * len(args))})" if args else ""
    rows = connection.exec_driver_sql(f"EXECUTE {statement}{placeholders}", args)
    return [tuple(row) for row in rows]
