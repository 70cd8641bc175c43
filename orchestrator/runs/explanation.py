"""Load the facts from which `causes` explains a run."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any
from uuid import UUID

from sqlalchemy.orm import Session

from orchestrator.db import Row, statements
from orchestrator.engine import concurrency
from orchestrator.models import Run, Step
from orchestrator.monitoring import backlog
from orchestrator.monitoring.workers import (
    WORKER_STATUS,
    Alias,
    active_listeners,
    start_error,
    start_error_as,
)
from orchestrator.runs import causes, queries
from orchestrator.runs.causes import Explanation, Facts, Listeners, StepCause
from orchestrator.states import OPEN_STEPS, RunState, StepState
from orchestrator.work_limits import in_turns

_LISTENERS = f"""
    SELECT named.name, (SELECT count(*) FROM {active_listeners("named.name")}) AS active,
        ARRAY(SELECT workers.name FROM workers WHERE named.name = ANY(queues)
              AND {WORKER_STATUS} IN ('draining', 'drained') ORDER BY 1) AS draining,
        {start_error("named.name")} AS start_error
    FROM unnest(CAST(:queues AS text[])) AS named(name)
"""
_ATTEMPTS = """
    SELECT attempts.* FROM steps JOIN attempts
        ON attempts.step_id = steps.id AND attempts.number = steps.attempt
    WHERE steps.run_id = :run_id AND steps.state = 'running' AND attempts.outcome IS NULL
"""
_HOLDER = f"""
    SELECT id, number, state FROM runs holder
    WHERE workflow_id = :workflow_id AND concurrency_key = :key AND id <> :run_id
      AND {concurrency.HOLDS_KEY.format("holder")} LIMIT 1
"""
_UNCLAIMED = """
    SELECT count(*) AS messages FROM (
        SELECT FROM steps WHERE queue = :queue AND tenant_id = :tenant_id AND state = 'queued'
          AND published_at IS NOT NULL LIMIT 10000
    ) unclaimed
"""
_MAY_START = "SELECT may_start(:id, :queue, :priority, :window) AS yes"


def explain(
    session: Session,
    tenant_id: UUID,
    run_id: UUID,
    *,
    window: int,
    alias: Alias,
    broker_answers: Callable[[], bool],
) -> Explanation:
    """Why a run and its steps do not go on. Raises NotFound.

    Workers have the names that `alias` gives them. `broker_answers` is called only if a message
    should be in the broker.
    """
    run = queries.get(session, tenant_id, run_id)
    steps = queries.steps(session, run)
    facts = _facts(session, run, steps, window, alias)
    if any(step.state == StepState.QUEUED and step.published_at for step in steps):
        facts = replace(facts, broker_answers=broker_answers())
    by_key = {step.key: step for step in steps}
    step_causes = [
        StepCause(step.key, step.state, causes.explain_step(run, step, by_key, facts))
        for step in in_turns(steps)
    ]
    cause = causes.explain_run(run, step_causes, facts)
    return Explanation(run_id=run.id, state=run.state, cause=cause, steps=step_causes)


def _facts(session: Session, run: Run, steps: Sequence[Step], window: int, alias: Alias) -> Facts:
    now = statements.rows(session, "SELECT clock_timestamp() AS now")[0].now
    begins_in = _begins_in(steps) if run.state == RunState.PENDING else frozenset()
    queued = {step.queue for step in steps if step.state == StepState.QUEUED}
    queues = sorted({run.queue} | queued | begins_in)
    workers = statements.rows(session, _LISTENERS, queues=queues)
    attempts = statements.rows(session, _ATTEMPTS, run_id=run.id)
    facts: dict[str, Any] = {
        "now": now,
        "window": window,
        "begins_in": begins_in,
        "workers": {row.name: _listeners(row, alias) for row in workers},
        "attempts": {row.step_id: row for row in attempts},
        "alias": alias,
    }
    if run.state == RunState.PENDING and run.concurrency_key is not None:
        params = {"workflow_id": run.workflow_id, "key": run.concurrency_key, "run_id": run.id}
        facts["holder"] = statements.row(session, _HOLDER, **params)
    if run.state == RunState.PENDING and run.due:
        params = {"queue": run.queue, "tenant_id": run.tenant_id}
        facts["unclaimed"] = statements.rows(session, _UNCLAIMED, **params)[0].messages
        facts["place"] = backlog.place_of(session, run.tenant_id, run.id)
        params = {"id": run.id, "queue": run.queue, "priority": run.priority, "window": window}
        facts["may_start"] = statements.rows(session, _MAY_START, **params)[0].yes
    return Facts(**facts)


def _listeners(row: Row, alias: Alias) -> Listeners:
    draining = [alias("worker", name) for name in row.draining]
    return Listeners(row.active, draining, start_error_as(row.start_error, alias))


def _begins_in(steps: Sequence[Step]) -> frozenset[str]:
    """The queues of the steps that need no open step."""
    is_open = {step.key for step in steps if step.state in OPEN_STEPS}
    return frozenset(
        step.queue
        for step in steps
        if step.state == StepState.PENDING and is_open.isdisjoint(step.needs)
    )
