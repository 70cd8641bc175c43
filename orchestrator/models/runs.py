"""The tables of runs. Postgres is the only truth; everything else is a hint about these rows."""

import enum
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    ForeignKey,
    Identity,
    Index,
    SmallInteger,
    UniqueConstraint,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column, relationship
from uuid_utils.compat import uuid7

from orchestrator.models.base import Base, empty, made_at, numbered
from orchestrator.models.run_indexes import PLAIN_RUN, RUN_INDEXES
from orchestrator.spec.model import NORMAL_PRIORITY
from orchestrator.states import RunState, SkipCause, StepState


class AttemptOutcome(enum.StrEnum):
    """How one try of a step ended."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    SKIPPED = "skipped"
    CANCELLED = "cancelled"
    LOST = "lost"  # its worker died, went silent or gave it back; no retry is spent on it


class Trigger(enum.StrEnum):
    """What started a run."""

    MANUAL = "manual"  # a request
    SCHEDULE = "schedule"  # a cron rule, an interval, or one instant
    API = "api"  # the URL of a schedule, with its token
    EVENT = "event"  # the end of another run
    BACKFILL = "backfill"
    RETRY = "retry"  # a new run that repeats another one


class Run(Base):
    """One execution of one version of a workflow, for one tenant."""

    __tablename__ = "runs"
    __table_args__ = (*RUN_INDEXES, {"postgresql_with": {"fillfactor": 70}})

    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid7)
    number: Mapped[int] = numbered()
    tenant_id: Mapped[UUID] = mapped_column(ForeignKey("tenants.id"))
    workflow_id: Mapped[UUID] = mapped_column(ForeignKey("workflows.id"))
    version_id: Mapped[UUID] = mapped_column(ForeignKey("versions.id"))
    workflow: Mapped[str]
    version: Mapped[int]
    state: Mapped[RunState] = mapped_column(default=RunState.PENDING)
    priority: Mapped[int] = mapped_column(
        SmallInteger, default=NORMAL_PRIORITY
    )  # higher goes first
    queue: Mapped[str]
    params: Mapped[dict[str, Any]]
    tags: Mapped[list[str]]
    trigger: Mapped[str]  # what started it: a value of `Trigger`
    source_type: Mapped[str | None]  # who or what pulled the trigger: key, schedule, run, backfill
    source_id: Mapped[str | None]
    reason: Mapped[str | None]
    submitted_by: Mapped[str | None]  # the name of the key
    run_as: Mapped[str | None]  # whose rights apply, for the handlers to honour
    project_id: Mapped[UUID | None]
    environment: Mapped[str] = mapped_column(server_default=PLAIN_RUN)
    name: Mapped[str | None]
    description: Mapped[str | None]
    annotations: Mapped[dict[str, Any]] = empty("{}")  # what a client keeps with it
    variables: Mapped[dict[str, Any] | None]  # what a trigger gave for `params`, as it was given
    event_variables: Mapped[dict[str, Any] | None]  # the trigger's payload
    schedule_id: Mapped[UUID | None]
    backfill_id: Mapped[UUID | None]
    logical_date: Mapped[datetime | None]  # the instant it stands for, which retries share
    depth: Mapped[int] = mapped_column(SmallInteger, server_default="0")  # runs that led to it
    concurrency_key: Mapped[str | None]  # one run of a workflow at a time holds it
    notifications: Mapped[dict[str, Any] | None]
    error: Mapped[dict[str, Any] | None]
    run_at: Mapped[datetime | None]  # not before
    due: Mapped[bool] = mapped_column(default=True)  # nothing but the window holds it
    held: Mapped[bool] = mapped_column(server_default=text("false"))  # until somebody starts it
    late_at: Mapped[datetime | None]  # when its SLA has passed
    passed_sla: Mapped[bool] = mapped_column(server_default=text("false"))
    warnings: Mapped[int] = mapped_column(server_default="0")
    timeout: Mapped[timedelta | None]  # from its start
    deadline_at: Mapped[datetime | None]
    cancel_requested_at: Mapped[datetime | None]
    cancel_reason: Mapped[str | None]
    timed_out: Mapped[bool] = mapped_column(default=False)  # not a caller but its timeout stops it
    stop_by: Mapped[datetime | None]  # a step that still runs then is killed
    retry_of: Mapped[UUID | None]  # the run this one repeats
    event_seq: Mapped[int] = mapped_column(default=0)  # of its last event
    created_at: Mapped[datetime] = made_at()
    queued_at: Mapped[datetime | None]
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]

    steps: Mapped[list["Step"]] = relationship(
        order_by="Step.position", lazy="raise", viewonly=True
    )


class RunTag(Base):
    """A tag of a run, kept by triggers: under row-level security no index can look into `tags`."""

    __tablename__ = "run_tags"

    tenant_id: Mapped[UUID] = mapped_column(primary_key=True)
    tag: Mapped[str] = mapped_column(primary_key=True)
    run_id: Mapped[UUID] = mapped_column(
        ForeignKey("runs.id", ondelete="CASCADE"), primary_key=True, index=True
    )


class Step(Base):
    """One node of a run."""

    __tablename__ = "steps"
    __table_args__ = (
        UniqueConstraint("run_id", "key"),
        Index(None, "number", unique=True),
        Index(None, "result_artifact", postgresql_where=text("result_artifact IS NOT NULL")),
        # Small whatever the tables hold: only what may be claimed, waits for a time, or runs.
        Index(
            "ix_steps_queued",
            "queue",
            text("priority DESC"),
            "run_id",
            postgresql_where=text("state = 'queued'"),
        ),
        Index("ix_steps_waiting", "wake_at", postgresql_where=text("state = 'waiting'")),
        Index(
            "ix_steps_active",
            "run_id",
            postgresql_where=text("state IN ('queued', 'running', 'waiting')"),
        ),
        # Few among very many: in how many runs a step that had begun came to no good end.
        Index(
            "ix_steps_ended_badly",
            "tenant_id",
            "run_id",
            postgresql_include=["state"],
            postgresql_where=text("state IN ('failed', 'cancelled') AND started_at IS NOT NULL"),
        ),
        {"postgresql_with": {"fillfactor": 70}},
    )

    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid7)
    number: Mapped[int] = numbered()
    tenant_id: Mapped[UUID]
    run_id: Mapped[UUID] = mapped_column(ForeignKey("runs.id", ondelete="CASCADE"))
    position: Mapped[int]
    key: Mapped[str]
    name: Mapped[str]
    uses: Mapped[str]  # the handler's name
    needs: Mapped[list[str]]
    dependents: Mapped[list[str]]  # the steps that need this one
    followers: Mapped[list[str]]  # the steps one chain with it would reach
    state: Mapped[StepState] = mapped_column(default=StepState.PENDING)
    skip_cause: Mapped[SkipCause | None]
    attempt: Mapped[int] = mapped_column(default=0)  # the fence of every write of a worker
    losses: Mapped[int] = mapped_column(default=0)  # attempts whose worker was lost
    forgiven: Mapped[int] = mapped_column(default=0)  # those before a retry, and those given back
    max_attempts: Mapped[int] = mapped_column(SmallInteger, default=1)
    generation: Mapped[int] = mapped_column(default=0)  # of its message; older ones are stale
    task_id: Mapped[str | None]  # Celery's id of that message
    queue: Mapped[str]
    priority: Mapped[int] = mapped_column(SmallInteger)
    allow_failure: Mapped[bool] = mapped_column(default=False)
    spec: Mapped[dict[str, Any]]  # with, reads, when, retry, timeout
    worker: Mapped[str | None]
    result: Mapped[Any] = mapped_column(JSONB(none_as_null=True), nullable=True)
    result_artifact: Mapped[UUID | None]  # where a result too large for a row is whole
    warnings: Mapped[int] = mapped_column(server_default="0")
    error: Mapped[dict[str, Any] | None]
    published_at: Mapped[datetime | None]
    wake_at: Mapped[datetime | None]  # of a waiting step
    created_at: Mapped[datetime] = made_at()
    queued_at: Mapped[datetime | None]
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]


class Attempt(Base):
    """One try of one step. A heartbeat touches this narrow row and no index."""

    __tablename__ = "attempts"
    __table_args__ = (
        Index("ix_attempts_running", "step_id", postgresql_where=text("outcome IS NULL")),
        {"postgresql_with": {"fillfactor": 70}},
    )

    step_id: Mapped[UUID] = mapped_column(
        ForeignKey("steps.id", ondelete="CASCADE"), primary_key=True
    )
    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    run_id: Mapped[UUID]
    task_id: Mapped[str]
    worker: Mapped[str]
    outcome: Mapped[AttemptOutcome | None]  # None while it runs
    error: Mapped[dict[str, Any] | None]
    lease_until: Mapped[datetime]  # good until then without a heartbeat
    kill_at: Mapped[datetime | None]  # its hard timeout
    usage: Mapped[dict[str, Any] | None]  # CPU, memory and I/O it took
    started_at: Mapped[datetime] = made_at()
    finished_at: Mapped[datetime | None]


class Event(Base):
    """What happened to a run, in order and without gaps; never changed."""

    __tablename__ = "events"
    __table_args__ = (
        UniqueConstraint("run_id", "seq"),
        # A tenant's events in the order of their commits, which is not that of their ids.
        Index(None, "tenant_id", "tx", "id"),
    )

    id: Mapped[int] = mapped_column(BigInteger, Identity(always=False), primary_key=True)
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
    """The first request that used a key, and what it made."""

    __tablename__ = "idempotency_keys"

    tenant_id: Mapped[UUID] = mapped_column(primary_key=True)
    key: Mapped[str] = mapped_column(primary_key=True)
    fingerprint: Mapped[str]
    run_id: Mapped[UUID | None] = mapped_column(ForeignKey("runs.id", ondelete="CASCADE"))
    run_ids: Mapped[list[UUID] | None]  # all, when it made several
    created_at: Mapped[datetime] = made_at()
