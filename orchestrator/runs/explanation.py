"""Asks for what the causes of a run and of its steps are told by."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any
from uuid import UUID

from sqlalchemy.orm import Session

from orchestrator.db import statements
from orchestrator.engine import concurrency
from orchestrator.models import Run, Step
from orchestrator.monitoring import backlog
from orchestrator.monitoring.workers import OFFLINE_AFTER, WORKER_STATUS
from orchestrator.runs import causes, queries
from orchestrator.runs.causes import Explanation, Facts, StepCause
from orchestrator.states import OPEN_STEPS, RunState, StepState

_NOW = "SELECT clock_timestamp() AS now"
_LISTENERS = f"""
    SELECT wanted.name, count(*) FILTER (WHERE status = 'active') AS active,
        array_agg(told.name ORDER BY told.name)
            FILTER (WHERE status IN ('draining', 'drained')) AS draining
    FROM unnest(CAST(:queues AS text[])) AS wanted(name)
    LEFT JOIN (SELECT name, queues, {WORKER_STATUS} AS status FROM workers) told
        ON wanted.name = ANY(told.queues)
    GROUP BY wanted.name
"""
_ATTEMPTS = """
    SELECT attempts.*, steps.attempt AS current FROM steps JOIN attempts
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
    broker_answers: Callable[[], bool],
) -> Explanation:
    """Why a run and its steps do not go on, if they do not. Raises NotFound.

    The broker is asked only where a message should be.
    """
    run = queries.get(session, tenant_id, run_id)
    steps = queries.steps(session, run)
    facts = _facts(session, run, steps, window)
    if any(step.state == StepState.QUEUED and step.published_at for step in steps):
        facts = replace(facts, broker_answers=broker_answers())
    by_key = {step.key: step for step in steps}
    told = [
        StepCause(
            key=step.key, state=step.state, cause=causes.explain_step(run, step, by_key, facts)
        )
        for step in steps
    ]
    cause = causes.explain_run(run, told, facts)
    return Explanation(run_id=run.id, state=run.state, cause=cause, steps=told)


def _facts(session: Session, run: Run, steps: Sequence[Step], window: int) -> Facts:
    """Ask for what the causes of this run are told by."""
    now = statements.rows(session, _NOW)[0].now
    begins_in = _begins_in(steps) if run.state == RunState.PENDING else frozenset()
    queued = {step.queue for step in steps if step.state == StepState.QUEUED}
    given = {
        "queues": sorted({run.queue} | queued | begins_in),
        "patience": OFFLINE_AFTER,
    }
    workers = statements.rows(session, _LISTENERS, **given)
    known: dict[str, Any] = {
        "window": window,
        "begins_in": begins_in,
        "listeners": {row.name: row.active for row in workers},
        "draining": {row.name: row.draining for row in workers if row.draining},
        "attempts": {
            row.step_id: row for row in statements.rows(session, _ATTEMPTS, run_id=run.id)
        },
    }
    if run.state == RunState.PENDING and run.concurrency_key is not None:
        given = {"workflow_id": run.workflow_id, "key": run.concurrency_key, "run_id": run.id}
        known["holder"] = statements.row(session, _HOLDER, **given)
    if run.state == RunState.PENDING and run.due:
        given = {"queue": run.queue, "tenant_id": run.tenant_id}
        known["unclaimed"] = statements.rows(session, _UNCLAIMED, **given)[0].messages
        known["place"] = backlog.place_of(session, run.tenant_id, run.id)
        given = {"id": run.id, "queue": run.queue, "priority": run.priority, "window": window}
        known["may_start"] = statements.rows(session, _MAY_START, **given)[0].yes
    return Facts(now=now, **known)


def _begins_in(steps: Sequence[Step]) -> frozenset[str]:
    """The queues of the steps that need no other one."""
    is_open = {step.key for step in steps if step.state in OPEN_STEPS}
    return frozenset(
        step.queue
        for step in steps
        if step.state == StepState.PENDING and is_open.isdisjoint(step.needs)
    )
