"""A worker's right to one attempt of a step: the claim, and whether it was committed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
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
    generation: int  # of the message; a claim lost in a crash of Postgres has an older one
    started_at: datetime  # to the microsecond, so unique among claims of the same attempt number
    run_id: UUID
    tenant_id: UUID
    workflow: str
    run: Mapping[str, Any]  # its fields that handlers may read
    key: str
    uses: str
    retries: int  # attempts before this one that failed, since the last retry of its run
    spec: Mapping[str, Any]
    params: Mapping[str, Any]
    results: Mapping[str, Any]  # by key, of the steps that its templates read
    spilled: Mapping[str, UUID]  # artifacts of results too large for a row, by key

    @property
    def source(self) -> AttemptRef:
        """The attempt, as its output refers to it."""
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
    AND (CAST(:queues AS text[]) IS NULL OR queue = ANY(CAST(:queues AS text[])))
"""

_BEGIN_ATTEMPT = """
    INSERT INTO attempts (step_id, number, run_id, task_id, worker, started_at, lease_until,
        kill_at)
    SELECT id, attempt, run_id, task_id, :worker, started_at,
        clock_timestamp() + CAST(:lease AS interval),
        clock_timestamp() + CAST(:grace AS interval)
            + CAST(coalesce(spec ->> 'timeout', CAST(:timeouts AS jsonb) ->> uses) AS float)
            * interval '1 second'
    FROM moved
"""

_CLAIMED = f"""
    moved.id AS step_id, run_id, key, uses, attempt, generation, spec, moved.started_at,
    attempt - 1 - forgiven - losses AS retries,
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
    timeouts: Mapping[str, float] | None = None,
    queues: Sequence[str] | None = None,
) -> Claim | None:
    """Claim one attempt of a step; None when the message is stale or the run does not continue.

    The attempt is killed after its step's timeout plus the grace. `timeouts` has the seconds of
    steps without a timeout, by the name of the handler. `queues`: those that the worker
    consumes, as a message may lie in any list; None: all.
    """
    statements.lock_ahead(session, _RUN_OF, step_id=step_id)
    step = (
        transitions.steps(session, StepTransition.CLAIM)
        .where(_CLAIMABLE, step_id=step_id, generation=generation, queues=queues)
        .set(
            "attempt = attempt + 1, worker = :worker, started_at = clock_timestamp(), error = NULL",
            worker=worker,
        )
        .then(_BEGIN_ATTEMPT, lease=lease, grace=grace, timeouts=statements.to_json(timeouts or {}))
        .one(returning=_CLAIMED)
    )
    if step is None:
        return None
    if step.run_state == RunState.QUEUED:
        started = transitions.runs(session, RunTransition.START).set(STARTED)
        started.where("id = :id", id=step.run_id).one()
    read = step.read or ()
    names = step._mapping.keys() & {each.name for each in fields(Claim)}
    return Claim(
        **{name: getattr(step, name) for name in names},
        run={name: getattr(step, name) for name in ("workflow", *_KNOWN)},
        results={key: result for key, result, _ in read},
        spilled={key: UUID(artifact) for key, _, artifact in read if artifact},
    )


# By the time of the claim: after a rolled back claim a copy of the message may have claimed an
# attempt with the same number, even in the same worker.
_STILL_CLAIMED = """
    SELECT 1 FROM steps WHERE id = :step_id AND state = 'running' AND attempt = :number
      AND started_at = :started_at
"""
# Only its own worker records the usage of an attempt.
_RECORDED = """
    SELECT 1 FROM attempts WHERE step_id = :step_id AND number = :number
      AND started_at = :started_at AND usage IS NOT NULL
"""


def was_claimed(session: Session, claim: Claim) -> bool:
    """Whether this claim was committed and is still good."""
    return _exists(session, _STILL_CLAIMED, claim)


def was_recorded(session: Session, claim: Claim) -> bool:
    """Whether the worker of this attempt has recorded its outcome."""
    return _exists(session, _RECORDED, claim)


def _exists(session: Session, sql: str, claim: Claim) -> bool:
    # Waits for the commit in doubt, if it is still in progress.
    transitions.lock_run(session, claim.run_id)
    fence = {"step_id": claim.step_id, "number": claim.attempt, "started_at": claim.started_at}
    return statements.row(session, sql, **fence) is not None
