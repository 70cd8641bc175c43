"""The invariants: what must never be so, each with the SQL that finds it.

No crash of a process and no lost message violates one: every change of a run is one transaction
under the run's lock. Nor does a crash of Postgres: it loses only the last commits, those that did
not wait for the disk, and leaves an earlier state. A violation is a bug, or rows that were changed
by hand. `doctor` and the scheduler's log name it; nothing repairs it.

The exceptions are `OVERDUE`: work that a sweep has not done for `PATIENCE`, by the times in the
rows. A dead worker, an outage or a missing scheduler is the cause, and the sweep ends it.

All queries are about given runs, so that none scans a table.
"""

from datetime import timedelta

from orchestrator.db.transitions import NEEDS, NEEDS_MET, SATISFIED, sql_list
from orchestrator.engine import concurrency
from orchestrator.states import FINAL_RUNS, OPEN_STEPS, RunTransition, StepState, StepTransition

PATIENCE = timedelta(seconds=60)  # several times what any sweep needs

_LONG_AGO = f"now() - interval '{PATIENCE.total_seconds():g} s'"
_FINAL, _OPEN = sql_list(FINAL_RUNS), sql_list(OPEN_STEPS)
_ENDED_STEPS = sql_list(frozenset(StepState) - OPEN_STEPS)
_ENDS = sql_list({row.event for row in RunTransition if row.target in FINAL_RUNS})
_SUCCEED, _RESET = StepTransition.SUCCEED.event, StepTransition.RESET.event
_CLAIM, _REOPEN = StepTransition.CLAIM.event, RunTransition.REOPEN.event
_STEP = "SELECT run.id AS run_id, steps.key AS step"
_STEPS = "FROM run JOIN steps ON steps.run_id = run.id"
_ATTEMPTS = "JOIN attempts ON attempts.step_id = steps.id AND attempts.outcome IS NULL"
_SELECT_STEP = f"{_STEP}, steps.state AS detail {_STEPS}"
_RUN = "SELECT run.id AS run_id, CAST(NULL AS text) AS step"
_SELECT_RUN = f"{_RUN}, run.state AS detail FROM run"
_NOT_DUE = "run.state = 'pending' AND NOT run.due AND NOT run.held"
_HISTORY = """
    SELECT run_id, step, type || ' at ' || seq AS detail FROM (
        SELECT events.run_id, step, type, seq,
            lag(type) OVER (PARTITION BY {by} ORDER BY seq) AS last
        FROM run JOIN events ON events.run_id = run.id WHERE type IN ({types})
    ) history
"""
_NEED_FAILED = f"""
    (SELECT need.key FROM {NEEDS}
     WHERE need.state IN ({_ENDED_STEPS}) AND NOT coalesce({SATISFIED}, false) LIMIT 1)
"""

# What must never be so; each selects run_id, step and detail from the runs in `run`.
_NEVER = {
    "an ended run has an open step": f"""
        {_SELECT_STEP} WHERE run.state IN ({_FINAL}) AND steps.state IN ({_OPEN})""",
    "a run that is being stopped has a step that could begin": f"""
        {_SELECT_STEP} WHERE run.state = 'cancelling'
          AND steps.state IN ('pending', 'queued', 'waiting')""",
    "a step has begun and its run has not": f"""
        {_SELECT_STEP} WHERE run.state IN ('pending', 'queued')
          AND steps.state IN ('running', 'waiting')
          OR run.state = 'pending' AND steps.state = 'queued'""",
    "a running step has no attempt that runs": f"""
        {_SELECT_STEP} WHERE steps.state = 'running' AND NOT EXISTS (
            SELECT FROM attempts WHERE step_id = steps.id AND number = steps.attempt
              AND outcome IS NULL)""",
    "an attempt runs for a step that does not": f"""
        {_STEP}, 'attempt ' || attempts.number AS detail {_STEPS} {_ATTEMPTS}
        WHERE steps.state <> 'running' OR steps.attempt <> attempts.number""",
    "a step waits although all that it needs is there": f"""
        {_SELECT_STEP} WHERE run.state IN ('queued', 'running') AND steps.state = 'pending'
          AND {NEEDS_MET}""",
    "a step needs what has failed for good": f"""
        SELECT * FROM (
            {_STEP}, {_NEED_FAILED} AS detail {_STEPS}
            WHERE run.state IN ('queued', 'running') AND steps.state = 'pending'
        ) blocked WHERE detail IS NOT NULL""",
    "a step waits for no time": f"""
        {_SELECT_STEP} WHERE run.state IN ('queued', 'running')
          AND steps.state = 'waiting' AND steps.wake_at IS NULL""",
    "a run goes on without an open step": f"""
        {_SELECT_RUN} WHERE (run.state IN ('queued', 'running', 'cancelling')
                             OR run.state = 'pending' AND run.due) AND NOT EXISTS (
            SELECT FROM steps WHERE steps.run_id = run.id AND steps.state IN ({_OPEN}))""",
    "a run waits and nothing holds it": f"""
        {_SELECT_RUN} WHERE {_NOT_DUE} AND run.concurrency_key IS NULL AND run.run_at IS NULL""",
    "work waits in a queue that no scheduler looks at": f"""
        {_STEP}, steps.queue AS detail {_STEPS}
        WHERE steps.state = 'queued' AND steps.published_at IS NULL
          AND NOT EXISTS (SELECT FROM queues WHERE name = steps.queue)
        UNION ALL
        {_RUN}, run.queue FROM run WHERE run.state = 'pending' AND run.due
          AND NOT EXISTS (SELECT FROM queues WHERE name = run.queue)""",
    "a run's last event is not the last number": f"""
        {_RUN}, run.event_seq || ' and not ' || last.seq AS detail
        FROM run, LATERAL (
            SELECT coalesce(max(seq), 0) AS seq FROM events WHERE run_id = run.id) last
        WHERE run.event_seq <> last.seq""",
}
# A sweep ends it, and is late.
OVERDUE = {
    "a running step's lease ran out long ago": f"""
        {_STEP}, attempts.worker AS detail {_STEPS} {_ATTEMPTS}
        WHERE steps.state = 'running' AND attempts.number = steps.attempt
          AND attempts.lease_until < {_LONG_AGO}""",
    "a step that was told to stop runs on for long": f"""
        {_SELECT_STEP} WHERE run.state = 'cancelling' AND steps.state = 'running'
          AND coalesce(run.stop_by, run.cancel_requested_at, '-infinity') < {_LONG_AGO}""",
    "a step's next attempt has been due for long": f"""
        {_SELECT_STEP} WHERE run.state IN ('queued', 'running') AND steps.state = 'waiting'
          AND steps.wake_at < {_LONG_AGO}""",
    "a run goes on long after its timeout": f"""
        {_SELECT_RUN} WHERE run.state = 'running' AND run.deadline_at < {_LONG_AGO}""",
    "a run's start time came long ago": f"""
        {_SELECT_RUN} WHERE {_NOT_DUE} AND run.concurrency_key IS NULL
          AND run.run_at < {_LONG_AGO}""",
    "a run waits for a concurrency key that nobody holds": f"""
        {_RUN}, run.concurrency_key AS detail
        FROM run WHERE {_NOT_DUE} AND run.concurrency_key IS NOT NULL
          AND coalesce(run.run_at, run.created_at) < {_LONG_AGO}
          AND NOT EXISTS (
            SELECT FROM runs holder WHERE holder.workflow_id = run.workflow_id
              AND holder.concurrency_key = run.concurrency_key
              AND {concurrency.HOLDS_KEY.format("holder")})
          AND NOT EXISTS (
            SELECT FROM runs ended WHERE ended.finished_at > {_LONG_AGO}
              AND ended.workflow_id = run.workflow_id
              AND ended.concurrency_key = run.concurrency_key)""",
}
# What must never be so in a history: it reads all events of a run.
OF_HISTORY = {
    "a run's events have a gap": f"""
        {_RUN}, count(*) || ' from ' || min(seq) || ' to ' || max(seq) AS detail
        FROM run JOIN events ON events.run_id = run.id
        GROUP BY run.id HAVING max(seq) <> count(*) OR min(seq) <> 1""",
    "a step is recorded as succeeded twice": f"""
        {_HISTORY.format(by="events.run_id, step", types=f"'{_SUCCEED}', '{_RESET}'")}
        WHERE type = last AND type = '{_SUCCEED}'""",
    "a step starts after its run has ended": f"""
        {_HISTORY.format(by="events.run_id", types=f"{_ENDS}, '{_REOPEN}', '{_CLAIM}'")}
        WHERE type = '{_CLAIM}' AND last IN ({_ENDS})""",
}
INVARIANTS = _NEVER | OVERDUE | OF_HISTORY

# Sums over all runs, each compared in one snapshot.
SUM_QUERIES = {
    "the backlog does not add up": """
        SELECT 'tenant ' || tenant_id || ', queue ' || queue || ', priority ' || priority
            || ': ' || sum(runs) || ' too many' AS detail
        FROM (
            SELECT tenant_id, queue, priority, runs FROM backlog WHERE level = 2
            UNION ALL
            SELECT tenant_id, queue, priority, change FROM backlog_changes
            UNION ALL
            SELECT tenant_id, queue, priority, -count(*) FROM runs
            WHERE state = 'pending' AND due GROUP BY 1, 2, 3
        ) counted GROUP BY tenant_id, queue, priority HAVING sum(runs) <> 0
    """,
    "the tallies do not add up": """
        SELECT 'tenant ' || tenant_id || ', ' || coalesce(nullif(state, ''), 'all') || ' runs: '
            || sum(runs) || ' too many' AS detail
        FROM (
            SELECT tenant_id, state, runs FROM tallies
            UNION ALL
            SELECT tenant_id, state, change FROM tally_changes
            UNION ALL
            SELECT tenant_id, '', -count(*) FROM runs GROUP BY tenant_id
            UNION ALL
            SELECT tenant_id, state, -count(*) FROM runs
            WHERE finished_at IS NOT NULL GROUP BY tenant_id, state
        ) counted GROUP BY tenant_id, state HAVING sum(runs) <> 0
    """,
}
