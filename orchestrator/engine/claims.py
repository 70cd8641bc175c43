"""A worker's right to one attempt of a step: the claim, and the recovery of one in doubt."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import datetime, timedelta
from functools import cached_property
from typing import Any
from uuid import UUID

from sqlalchemy.orm import Session

from orchestrator.db import Row, statements, transitions
from orchestrator.db.autocommit import AnySession
from orchestrator.sdk.reports import AttemptRef


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


@dataclass(frozen=True, kw_only=True)
class Claimant:
    """Who claims steps, and on what terms."""

    worker: str
    thread: int  # the operating system's id, of the process in a prefork pool
    lease: timedelta
    grace: timedelta  # from a step's timeout until it is killed
    queues: Sequence[str] | None = None  # a message may lie in any list; None: of all queues
    # Seconds of steps without a timeout, by the name of the handler.
    timeouts: Mapping[str, float] = field(default_factory=dict)

    @cached_property
    def params(self) -> Mapping[str, Any]:
        """The parameters of `TERMS`."""
        queues = None if self.queues is None else list(self.queues)
        return {
            "worker": self.worker,
            "thread": self.thread,
            "queues": queues,
            "lease": self.lease,
            "grace": self.grace,
            "timeouts": statements.to_json(self.timeouts),
        }


# Without casts, which take a part of the time of a statement that is planned at each execution.
TERMS = ":worker, :thread, :queues, :lease, :grace, :timeouts"
_CLAIM = f"""
    SELECT claim.* FROM claim_step(:step_id, :generation, {TERMS})
        AS step(id), LATERAL read_claim(step.id) claim
"""
_COLUMNS = {each.name for each in fields(Claim)} - {"run", "results", "spilled"}
# Fields of a run that handlers may read.
_KNOWN = (
    "workflow", "number", "trigger", "logical_date", "variables", "event_variables", "run_as",
    "environment",
)  # fmt: skip


def claim_attempt(
    session: AnySession, step_id: UUID, generation: int, claimant: Claimant
) -> Claim | None:
    """Claim one attempt of a step; None when the message is stale or the run does not continue."""
    params = {"step_id": step_id, "generation": generation, **claimant.params}
    row = statements.row(session, _CLAIM, **params)
    return row and claim_of(row)


def claim_of(row: Row) -> Claim:
    """The claim of a row of `read_claim`."""
    read = row.read or ()
    return Claim(
        **{name: getattr(row, name) for name in _COLUMNS},
        run={name: getattr(row, name) for name in _KNOWN},
        results={key: result for key, result, _ in read},
        spilled={key: UUID(artifact) for key, _, artifact in read if artifact},
    )


# A claim whose answer was lost. A copy of the message may have been claimed by the same worker.
_HELD = """
    SELECT claim.* FROM steps
    JOIN attempts ON step_id = steps.id AND attempts.number = steps.attempt,
    LATERAL read_claim(steps.id) claim
    WHERE steps.run_id = :run_id AND steps.state = 'running' AND attempts.outcome IS NULL
      AND attempts.task_id = :task_id AND attempts.worker = :worker AND thread = :thread
"""


def held_claim(session: Session, run_id: UUID, task_id: str, claimant: Claimant) -> Claim | None:
    """What this thread of a worker has claimed for the task that it executes."""
    # Waits for a commit in doubt, if it is still in progress.
    transitions.lock_run(session, run_id)
    thread = {"worker": claimant.worker, "thread": claimant.thread}
    row = statements.row(session, _HELD, run_id=run_id, task_id=task_id, **thread)
    return row and claim_of(row)


def recover_claim(
    session: Session, step_id: UUID, task_id: str, claimant: Claimant
) -> Claim | None:
    """The claim of this task if it was committed, and is still good."""
    step = statements.row(session, "SELECT run_id FROM steps WHERE id = :id", id=step_id)
    return step and held_claim(session, step.run_id, task_id, claimant)
