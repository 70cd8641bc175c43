"""The tables of runs. They are the only truth; everything else is a hint about these rows."""

import enum
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    FetchedValue,
    ForeignKey,
    Index,
    SmallInteger,
    UniqueConstraint,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column, relationship

from orchestrator.models.base import (
    APPENDED,
    UPDATED_IN_PLACE,
    Base,
    Resource,
    RowId,
    TenantResource,
    empty,
    made_at,
)
from orchestrator.models.indexes import PLAIN_RUN, RUN_INDEXES, partial_index
from orchestrator.spec.model import NORMAL_PRIORITY
from orchestrator.states import RunState, SkipCause, StepState


class AttemptOutcome(enum.StrEnum):
    """How one attempt of a step ended."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    SKIPPED = "skipped"
    CANCELLED = "cancelled"
    LOST = "lost"  # its worker died, lost its lease or handed it back; costs no retry


class Trigger(enum.StrEnum):
    """What started a run."""

    MANUAL = "manual"  # a request
    SCHEDULE = "schedule"  # a cron rule, an interval, or one instant
    API = "api"  # the URL of a schedule, with its token
    EVENT = "event"  # the end of another run
    BACKFILL = "backfill"
    RETRY = "retry"  # a new run that retries another one


class Run(TenantResource, Base):
    """One execution of one version of a workflow, for one tenant."""

    __tablename__ = "runs"
    __table_args__ = (*RUN_INDEXES, UPDATED_IN_PLACE)

    workflow_id: Mapped[UUID] = mapped_column(ForeignKey("workflows.id"))
    version_id: Mapped[UUID] = mapped_column(ForeignKey("versions.id"))
    workflow: Mapped[str]
    version: Mapped[int]
    # Among the runs of its workflow, by a trigger; None: a run of an earlier release.
    ordinal: Mapped[int | None] = mapped_column(BigInteger, server_default=FetchedValue())
    state: Mapped[RunState] = mapped_column(default=RunState.PENDING)
    # Higher goes first.
    priority: Mapped[int] = mapped_column(SmallInteger, default=NORMAL_PRIORITY)
    queue: Mapped[str]
    params: Mapped[dict[str, Any]]
    tags: Mapped[list[str]]
    trigger: Mapped[str]  # what started it: a value of `Trigger`
    source_type: Mapped[str | None]  # of the submitter: key, schedule, run, backfill
    source_id: Mapped[str | None]
    reason: Mapped[str | None]
    submitted_by: Mapped[str | None]  # the name of the key
    run_as: Mapped[str | None]  # the user whose rights apply; handlers enforce it
    project_id: Mapped[UUID | None]
    environment: Mapped[str] = mapped_column(server_default=PLAIN_RUN)
    name: Mapped[str | None]
    description: Mapped[str | None]
    annotations: Mapped[dict[str, Any]] = empty("{}")  # of clients
    variables: Mapped[dict[str, Any] | None]  # the trigger's, from which `params` are made
    event_variables: Mapped[dict[str, Any] | None]  # the trigger's payload
    schedule_id: Mapped[UUID | None]
    backfill_id: Mapped[UUID | None]
    logical_date: Mapped[datetime | None]  # the instant that it processes, the same for retries
    depth: Mapped[int] = mapped_column(SmallInteger, server_default="0")  # runs that led to it
    concurrency_key: Mapped[str | None]  # at most one run of a workflow holds it
    notifications: Mapped[dict[str, Any] | None]
    error: Mapped[dict[str, Any] | None]
    run_at: Mapped[datetime | None]  # earliest start
    due: Mapped[bool] = mapped_column(default=True)  # waits for nothing but the window
    held: Mapped[bool] = mapped_column(server_default=text("false"))  # until a request starts it
    late_at: Mapped[datetime | None]  # when its SLA passes
    passed_sla: Mapped[bool] = mapped_column(server_default=text("false"))
    warnings: Mapped[int] = mapped_column(server_default="0")
    timeout: Mapped[timedelta | None]  # from its start
    deadline_at: Mapped[datetime | None]
    cancel_requested_at: Mapped[datetime | None]
    cancel_reason: Mapped[str | None]
    timed_out: Mapped[bool] = mapped_column(default=False)  # stopped by its timeout
    stop_by: Mapped[datetime | None]  # steps still running then are killed
    retry_of: Mapped[UUID | None]  # the run that this one retries
    event_seq: Mapped[int] = mapped_column(default=0)  # of its last event
    queued_at: Mapped[datetime | None]
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]

    steps: Mapped[list["Step"]] = relationship(
        order_by="Step.position", lazy="raise", viewonly=True
    )


class RunTag(Base):
    """A tag of a run, written by triggers: under row-level security no index on `tags` is used."""

    __tablename__ = "run_tags"

    tenant_id: Mapped[UUID] = mapped_column(primary_key=True)
    tag: Mapped[str] = mapped_column(primary_key=True)
    run_id: Mapped[UUID] = mapped_column(
        ForeignKey("runs.id", ondelete="CASCADE"), primary_key=True, index=True
    )


class Step(Resource, Base):
    """One step of a run."""

    __tablename__ = "steps"
    __table_args__ = (
        UniqueConstraint("run_id", "key"),
        Index(None, "number", "tenant_id", unique=True),
        partial_index(None, "result_artifact", where="result_artifact IS NOT NULL"),
        # Small with any number of rows: only steps that may be claimed, wait for a time, or run.
        partial_index(
            "ix_steps_queued", "queue", text("priority DESC"), "run_id", where="state = 'queued'"
        ),
        partial_index("ix_steps_waiting", "wake_at", where="state = 'waiting'"),
        partial_index(
            "ix_steps_active", "run_id", where="state IN ('queued', 'running', 'waiting')"
        ),
        # Few among very many: the runs in which a started step failed or was cancelled.
        partial_index(
            "ix_steps_ended_badly",
            "tenant_id",
            "run_id",
            postgresql_include=["state"],
            where="state IN ('failed', 'cancelled') AND started_at IS NOT NULL",
        ),
        UPDATED_IN_PLACE,
    )

    tenant_id: Mapped[UUID]
    run_id: Mapped[UUID] = mapped_column(ForeignKey("runs.id", ondelete="CASCADE"))
    position: Mapped[int]
    key: Mapped[str]
    name: Mapped[str]
    uses: Mapped[str]  # the handler's name
    needs: Mapped[list[str]]
    dependents: Mapped[list[str]]  # the steps that need this one
    followers: Mapped[list[str]]  # the steps of its chain after it
    state: Mapped[StepState] = mapped_column(default=StepState.PENDING)
    skip_cause: Mapped[SkipCause | None]
    attempt: Mapped[int] = mapped_column(default=0)  # the fence of a worker's writes
    losses: Mapped[int] = mapped_column(default=0)  # attempts whose worker was lost
    forgiven: Mapped[int] = mapped_column(default=0)  # attempts before a retry, or handed back
    max_attempts: Mapped[int] = mapped_column(SmallInteger, default=1)
    generation: Mapped[int] = mapped_column(default=0)  # of its message; older ones are stale
    task_id: Mapped[str | None]  # Celery's id of that message
    queue: Mapped[str]
    priority: Mapped[int] = mapped_column(SmallInteger)
    allow_failure: Mapped[bool] = mapped_column(default=False)
    spec: Mapped[dict[str, Any]]  # with, reads, when, retry, timeout
    worker: Mapped[str | None]
    result: Mapped[Any] = mapped_column(JSONB(none_as_null=True), nullable=True)
    result_artifact: Mapped[UUID | None]  # the result, if it is too large for the row
    warnings: Mapped[int] = mapped_column(server_default="0")
    error: Mapped[dict[str, Any] | None]
    published_at: Mapped[datetime | None]
    wake_at: Mapped[datetime | None]  # of a waiting step
    queued_at: Mapped[datetime | None]
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]


class Attempt(Base):
    """One attempt of a step. A heartbeat updates this narrow row and no index."""

    __tablename__ = "attempts"
    __table_args__ = (
        partial_index("ix_attempts_running", "step_id", where="outcome IS NULL"),
        UPDATED_IN_PLACE,
    )

    step_id: Mapped[UUID] = mapped_column(
        ForeignKey("steps.id", ondelete="CASCADE"), primary_key=True
    )
    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    run_id: Mapped[UUID]
    task_id: Mapped[str]  # of the Celery task that carries it; of its run's steps in turn
    worker: Mapped[str]
    thread: Mapped[int | None]  # of the worker's machine: tells copies of a message apart
    outcome: Mapped[AttemptOutcome | None]  # None while it runs
    error: Mapped[dict[str, Any] | None]
    lease_until: Mapped[datetime]  # valid until then without a heartbeat
    kill_at: Mapped[datetime | None]  # its hard timeout
    usage: Mapped[dict[str, Any] | None]  # CPU, memory and I/O
    started_at: Mapped[datetime] = made_at()
    finished_at: Mapped[datetime | None]


class Event(Base):
    """An entry of a run's history: in order, without gaps, immutable."""

    __tablename__ = "events"
    __table_args__ = (
        UniqueConstraint("run_id", "seq"),
        # A tenant's events in the order of their transactions, which is not that of their ids.
        Index(None, "tenant_id", "tx", "id"),
        APPENDED,
    )

    id: Mapped[RowId]
    tenant_id: Mapped[UUID]
    run_id: Mapped[UUID] = mapped_column(ForeignKey("runs.id", ondelete="CASCADE"))
    seq: Mapped[int]
    type: Mapped[str]
    step: Mapped[str | None]  # its key
    attempt: Mapped[int | None]
    data: Mapped[dict[str, Any]]
    tx: Mapped[int] = mapped_column(  # the transaction that wrote it
        BigInteger, server_default=text("CAST(CAST(pg_current_xact_id() AS text) AS bigint)")
    )
    occurred_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())


class IdempotencyKey(Base):
    """The first request that used a key, and the runs it created."""

    __tablename__ = "idempotency_keys"

    tenant_id: Mapped[UUID] = mapped_column(primary_key=True)
    key: Mapped[str] = mapped_column(primary_key=True)
    fingerprint: Mapped[str]
    run_id: Mapped[UUID | None] = mapped_column(ForeignKey("runs.id", ondelete="CASCADE"))
    run_ids: Mapped[list[UUID] | None]  # of a request that created several
    created_at: Mapped[datetime] = made_at()
