"""The invariants: what must never be so, each with the SQL that finds it.

No crash of a process and no lost message violates one: every change of a run is one transaction
under the run's lock. Nor does a crash of Postgres: it loses only the last commits, those that did
not wait for the disk, and leaves an earlier state. A violation is a bug, or rows that were changed
by hand. `doctor` and the scheduler's log name it; nothing repairs it.

The exceptions are `overdue`: work that a sweep has not done for `PATIENCE`, by the times in the
rows. A dead worker, an outage or a missing scheduler is the cause, and the sweep ends it.

All queries are about given runs, so that none scans a table.
"""

from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import timedelta

from orchestrator.db import transitions
from orchestrator.engine import concurrency
from orchestrator.states import FINAL_RUNS, OPEN_STEPS, RunTransition, StepState, StepTransition

PATIENCE = timedelta(seconds=60)  # several times what any sweep needs


@dataclass(frozen=True)
class Invariant:
    """Something that is wrong with a run."""

    broken: str
    sql: str = field(repr=False)  # selects run_id, step and detail from the runs in `run`
    overdue: bool = False  # a sweep ends it, and is late
    of_history: bool = False  # it reads all events of a run


def _sql_list(states: Collection[str]) -> str:
    return ", ".join(f"'{state}'" for state in sorted(states))


_LONG_AGO = f"now() - interval '{PATIENCE.total_seconds():g} s'"
_FINAL, _OPEN = _sql_list(FINAL_RUNS), _sql_list(OPEN_STEPS)
_ENDED_STEPS = _sql_list(frozenset(StepState) - OPEN_STEPS)
_ENDS = _sql_list({row.event for row in RunTransition if row.target in FINAL_RUNS})
_STEPS = "FROM run JOIN steps ON steps.run_id = run.id"
_ATTEMPTS = "JOIN attempts ON attempts.step_id = steps.id AND attempts.outcome IS NULL"
_SELECT_STEP = f"SELECT run.id AS run_id, steps.key AS step, steps.state AS detail {_STEPS}"
_SELECT_RUN = "SELECT run.id AS run_id, CAST(NULL AS text) AS step, run.state AS detail FROM run"
_NOT_DUE = "run.state = 'pending' AND NOT run.due AND NOT run.held"
_HISTORY = """
    SELECT run_id, step, type || ' at ' || seq AS detail FROM (
        SELECT events.run_id, step, type, seq,
            lag(type) OVER (PARTITION BY {by} ORDER BY seq) AS last
        FROM run JOIN events ON events.run_id = run.id WHERE type IN ({types})
    ) history
"""
_NEED_FAILED = f"""
    (SELECT need.key FROM unnest(steps.needs) AS required(key), LATERAL (
        SELECT * FROM steps needed
        WHERE needed.run_id = steps.run_id AND needed.key = required.key LIMIT 1
    ) need
    WHERE need.state IN ({_ENDED_STEPS}) AND NOT coalesce({transitions.SATISFIED}, false) LIMIT 1)
"""

INVARIANTS = (
    Invariant(
        "an ended run has an open step",
        f"{_SELECT_STEP} WHERE run.state IN ({_FINAL}) AND steps.state IN ({_OPEN})",
    ),
    Invariant(
        "a run that is being stopped has a step that could begin",
        f"{_SELECT_STEP} WHERE run.state = 'cancelling'"
        " AND steps.state IN ('pending', 'queued', 'waiting')",
    ),
    Invariant(
        "a step has begun and its run has not",
        f"""{_SELECT_STEP} WHERE run.state IN ('pending', 'queued')
              AND steps.state IN ('running', 'waiting')
              OR run.state = 'pending' AND steps.state = 'queued'""",
    ),
    Invariant(
        "a running step has no attempt that runs",
        f"""{_SELECT_STEP} WHERE steps.state = 'running' AND NOT EXISTS (
            SELECT FROM attempts WHERE step_id = steps.id AND number = steps.attempt
              AND outcome IS NULL)""",
    ),
    Invariant(
        "a running step's lease ran out long ago",
        f"""SELECT run.id AS run_id, steps.key AS step, attempts.worker AS detail
            {_STEPS} {_ATTEMPTS}
            WHERE steps.state = 'running' AND attempts.number = steps.attempt
              AND attempts.lease_until < {_LONG_AGO}""",
        overdue=True,
    ),
    Invariant(
        "a step that was told to stop runs on for long",
        f"""{_SELECT_STEP} WHERE run.state = 'cancelling' AND steps.state = 'running'
              AND coalesce(run.stop_by, run.cancel_requested_at, '-infinity') < {_LONG_AGO}""",
        overdue=True,
    ),
    Invariant(
        "an attempt runs for a step that does not",
        f"""SELECT run.id AS run_id, steps.key AS step, 'attempt ' || attempts.number AS detail
            {_STEPS} {_ATTEMPTS}
            WHERE steps.state <> 'running' OR steps.attempt <> attempts.number""",
    ),
    Invariant(
        "a step waits although all that it needs is there",
        f"""{_SELECT_STEP} WHERE run.state IN ('queued', 'running') AND steps.state = 'pending'
              AND {transitions.NEEDS_MET}""",
    ),
    Invariant(
        "a step needs what has failed for good",
        f"""SELECT * FROM (
                SELECT run.id AS run_id, steps.key AS step, {_NEED_FAILED} AS detail {_STEPS}
                WHERE run.state IN ('queued', 'running') AND steps.state = 'pending'
            ) blocked WHERE detail IS NOT NULL""",
    ),
    Invariant(
        "a step waits for no time",
        f"{_SELECT_STEP} WHERE run.state IN ('queued', 'running')"
        " AND steps.state = 'waiting' AND steps.wake_at IS NULL",
    ),
    Invariant(
        "a step's next attempt has been due for long",
        f"""{_SELECT_STEP} WHERE run.state IN ('queued', 'running') AND steps.state = 'waiting'
              AND steps.wake_at < {_LONG_AGO}""",
        overdue=True,
    ),
    Invariant(
        "a run goes on without an open step",
        f"""{_SELECT_RUN} WHERE (run.state IN ('queued', 'running', 'cancelling')
                             OR run.state = 'pending' AND run.due) AND NOT EXISTS (
            SELECT FROM steps WHERE steps.run_id = run.id AND steps.state IN ({_OPEN}))""",
    ),
    Invariant(
        "a run goes on long after its timeout",
        f"{_SELECT_RUN} WHERE run.state = 'running' AND run.deadline_at < {_LONG_AGO}",
        overdue=True,
    ),
    Invariant(
        "a run waits and nothing holds it",
        f"{_SELECT_RUN} WHERE {_NOT_DUE} AND run.concurrency_key IS NULL AND run.run_at IS NULL",
    ),
    Invariant(
        "a run's start time came long ago",
        f"""{_SELECT_RUN} WHERE {_NOT_DUE} AND run.concurrency_key IS NULL
              AND run.run_at < {_LONG_AGO}""",
        overdue=True,
    ),
    Invariant(
        "a run waits for a concurrency key that nobody holds",
        f"""SELECT run.id AS run_id, CAST(NULL AS text) AS step, run.concurrency_key AS detail
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
        overdue=True,
    ),
    Invariant(
        "work waits in a queue that no scheduler looks at",
        f"""SELECT run.id AS run_id, steps.key AS step, steps.queue AS detail {_STEPS}
            WHERE steps.state = 'queued' AND steps.published_at IS NULL
              AND NOT EXISTS (SELECT FROM queues WHERE name = steps.queue)
            UNION ALL
            SELECT run.id, NULL, run.queue FROM run WHERE run.state = 'pending' AND run.due
              AND NOT EXISTS (SELECT FROM queues WHERE name = run.queue)""",
    ),
    Invariant(
        "a run's last event is not the last number",
        """SELECT run.id AS run_id, CAST(NULL AS text) AS step,
                run.event_seq || ' and not ' || last.seq AS detail
            FROM run, LATERAL (
                SELECT coalesce(max(seq), 0) AS seq FROM events WHERE run_id = run.id) last
            WHERE run.event_seq <> last.seq""",
    ),
    Invariant(
        "a run's events have a gap",
        """SELECT run.id AS run_id, CAST(NULL AS text) AS step,
                count(*) || ' from ' || min(seq) || ' to ' || max(seq) AS detail
            FROM run JOIN events ON events.run_id = run.id
            GROUP BY run.id HAVING max(seq) <> count(*) OR min(seq) <> 1""",
        of_history=True,
    ),
    Invariant(
        "a step is recorded as succeeded twice",
        _HISTORY.format(
            by="events.run_id, step",
            types=_sql_list({StepTransition.SUCCEED.event, StepTransition.RESET.event}),
        )
        + f"WHERE type = last AND type = '{StepTransition.SUCCEED.event}'",
        of_history=True,
    ),
    Invariant(
        "a step starts after its run has ended",
        _HISTORY.format(
            by="events.run_id",
            types=f"{_ENDS}, '{RunTransition.REOPEN.event}', '{StepTransition.CLAIM.event}'",
        )
        + f"WHERE type = '{StepTransition.CLAIM.event}' AND last IN ({_ENDS})",
        of_history=True,
    ),
)
BY_NAME = {each.broken: each for each in INVARIANTS}

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
