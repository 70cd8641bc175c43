"""A worker's right to one attempt of a step: the claim, and whether it was committed."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy.orm import Session

from orchestrator.db import statements, transitions
from orchestrator.sdk.reports import AttemptRef
from orchestrator.states import RunState, RunTransition, StepTransition


@dataclass(frozen=True, kw_only=True)
class Claim:
    """The right to one attempt of one step, and all that is needed to execute it."""

    step_id: UUID
    attempt: int  # the fence
    generation: int  # of the message; a claim that a crash of Postgres forgot has an older one
    started_at: datetime  # to the microsecond: no two claims of an attempt have the same
    run_id: UUID
    tenant_id: UUID
    workflow: str
    run: Mapping[str, Any]  # what a handler may know of it
    key: str
    uses: str
    spec: Mapping[str, Any]
    params: Mapping[str, Any]
    results: Mapping[str, Any]  # by key, of the steps that this one reads
    spilled: Mapping[str, UUID]  # the artifacts of those whose result is too large for a row

    @property
    def source(self) -> AttemptRef:
        """Who speaks when its handler does."""
        return AttemptRef(
            tenant_id=self.tenant_id,
            run_id=self.run_id,
            step_id=self.step_id,
            step=self.key,
            attempt=self.attempt,
            started_at=self.started_at,
        )


STARTED = "started_at = clock_timestamp(), deadline_at = clock_timestamp() + timeout"  # of a run

_KNOWN = (
    "number", "trigger", "logical_date", "variables", "event_variables", "run_as",
    "environment",
)  # fmt: skip
_RUN_OF = "id = (SELECT run_id FROM steps WHERE id = :step_id)"

_CLAIMABLE = f"""
    id = :step_id AND generation = :generation AND EXISTS (
        SELECT FROM runs WHERE id = steps.run_id
        AND state IN ('{RunState.QUEUED}', '{RunState.RUNNING}'))
"""

_BEGIN_ATTEMPT = """
    INSERT INTO attempts (step_id, number, run_id, task_id, worker, started_at, lease_until,
        kill_at)
    SELECT id, attempt, run_id, task_id, :worker, started_at,
        clock_timestamp() + CAST(:lease AS interval),
        clock_timestamp() + CAST(:grace AS interval)
            + CAST(spec ->> 'timeout' AS float) * interval '1 second'
    FROM moved
"""

_CLAIMED = f"""
    moved.id, run_id, key, uses, attempt, generation, spec, moved.started_at,
    runs.state AS run_state, tenant_id, workflow, params, {", ".join(_KNOWN)},
    (SELECT jsonb_agg(jsonb_build_array(key, result, result_artifact)) FROM steps
     WHERE run_id = moved.run_id
       AND key = ANY(ARRAY(SELECT jsonb_array_elements_text(moved.spec -> 'reads')))) AS read
    FROM moved JOIN runs ON runs.id = moved.run_id
"""


def claim_attempt(
    session: Session,
    step_id: UUID,
    generation: int,
    *,
    worker: str,
    lease: timedelta,
    grace: timedelta,
) -> Claim | None:
    """Take the right to one attempt, or None: the message is stale or the run does not go on.

    The attempt is killed when its step's timeout and then the grace have passed.
    """
    statements.lock_ahead(session, _RUN_OF, step_id=step_id)
    step = (
        transitions.steps(session, StepTransition.CLAIM)
        .where(_CLAIMABLE, step_id=step_id, generation=generation)
        .set(
            "attempt = attempt + 1, worker = :worker, started_at = clock_timestamp(), error = NULL",
            worker=worker,
        )
        .then(_BEGIN_ATTEMPT, lease=lease, grace=grace)
        .one(returning=_CLAIMED)
    )
    if step is None:
        return None
    if step.run_state == RunState.QUEUED:
        started = transitions.runs(session, RunTransition.START).set(STARTED)
        started.where("id = :id", id=step.run_id).one()
    read = step.read or ()
    return Claim(
        step_id=step.id,
        attempt=step.attempt,
        generation=step.generation,
        started_at=step.started_at,
        run_id=step.run_id,
        tenant_id=step.tenant_id,
        workflow=step.workflow,
        run={name: getattr(step, name) for name in ("workflow", *_KNOWN)},
        key=step.key,
        uses=step.uses,
        spec=step.spec,
        params=step.params,
        results={key: result for key, result, _ in read},
        spilled={key: UUID(artifact) for key, _, artifact in read if artifact},
    )


# By the moment of the claim: after a try that came to nothing, a copy of the message may have
# claimed an attempt with the same number, even in the same worker.
_STILL_CLAIMED = """
    SELECT 1 FROM steps WHERE id = :step_id AND state = 'running' AND attempt = :number
      AND started_at = :started_at
"""
# Whoever else ends an attempt does not know what it took.
_RECORDED = """
    SELECT 1 FROM attempts WHERE step_id = :step_id AND number = :number
      AND started_at = :started_at AND usage IS NOT NULL
"""


def was_claimed(session: Session, claim: Claim) -> bool:
    """Whether this claim was made, and still is good."""
    return _is_there(session, _STILL_CLAIMED, claim)


def was_recorded(session: Session, claim: Claim) -> bool:
    """Whether it is written down how this attempt ended, by whoever executed it."""
    return _is_there(session, _RECORDED, claim)


def _is_there(session: Session, sql: str, claim: Claim) -> bool:
    transitions.lock_run(session, claim.run_id)  # the commit in doubt may be on its way still
    fence = {"step_id": claim.step_id, "number": claim.attempt, "started_at": claim.started_at}
    return statements.row(session, sql, **fence) is not None
