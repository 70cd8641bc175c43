"""The tables of what starts runs: schedules, their firings, and backfills."""

import enum
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import DateTime, ForeignKey, Index, SmallInteger, text
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import Mapped, mapped_column

from orchestrator.models.base import (
    SHORT_LIVED,
    UPDATED_OFTEN,
    Base,
    RowId,
    TenantResource,
    empty,
    made_at,
)
from orchestrator.models.indexes import partial_index
from orchestrator.spec.cron import CatchUp


class ScheduleType(enum.StrEnum):
    """What fires a schedule."""

    API = "api"  # a request to its URL, with its token
    CRON = "cron"
    INTERVAL = "interval"
    ONCE = "once"
    EVENT = "event"  # the end of a run of another workflow


class Overlap(enum.StrEnum):
    """What to do with an instant while a run of the schedule is open."""

    ALLOW = "allow"
    SKIP = "skip"
    BUFFER_ONE = "buffer_one"  # one waits for the running one to end; more are skipped
    CANCEL_RUNNING = "cancel_running"


class FiringOutcome(enum.StrEnum):
    """The outcome of one instant of a schedule."""

    WAITING = "waiting"  # not acted upon yet
    SUBMITTED = "submitted"
    SKIPPED = "skipped"  # by the overlap policy, or missed and not caught up
    REFUSED = "refused"  # its run could not be submitted; `detail` has the reason


class BackfillState(enum.StrEnum):
    """The state of a backfill."""

    RUNNING = "running"
    FINISHED = "finished"  # every instant's run has ended
    CANCELLED = "cancelled"


class Schedule(TenantResource, Base):
    """A rule, a URL or an event that submits runs of one workflow."""

    __tablename__ = "schedules"
    __table_args__ = (
        Index(None, "number", "tenant_id", unique=True),
        Index(None, "tenant_id", "id"),
        Index(None, "workflow_id", "id"),
        partial_index("ix_schedules_fires_at", "fires_at", where="active"),
        partial_index(
            "ix_schedules_events", "tenant_id", "after_workflow", where="active AND type = 'event'"
        ),
        SHORT_LIVED,
    )

    workflow_id: Mapped[UUID] = mapped_column(ForeignKey("workflows.id"))
    workflow: Mapped[str]
    version: Mapped[int | None]  # None: the latest one at each firing
    name: Mapped[str]
    description: Mapped[str | None]
    type: Mapped[ScheduleType]
    cron: Mapped[str | None]
    every: Mapped[timedelta | None]
    at: Mapped[datetime | None]
    after_workflow: Mapped[str | None]  # of type event: the workflow whose runs fire it
    after_states: Mapped[list[str] | None]  # and the states in which they must end
    timezone: Mapped[str] = mapped_column(server_default="UTC")
    jitter: Mapped[timedelta | None]  # maximum delay of an instant
    start_at: Mapped[datetime | None]
    end_at: Mapped[datetime | None]
    overlap: Mapped[Overlap] = mapped_column(server_default=Overlap.ALLOW.value)
    max_running: Mapped[int | None] = mapped_column(SmallInteger)  # of its runs; more of them wait
    # Whether the steps of its runs that do not need a failed one still start.
    continue_on_failure: Mapped[bool] = mapped_column(server_default=text("false"))
    catch_up: Mapped[CatchUp] = mapped_column(server_default=CatchUp.LATEST.value)
    active: Mapped[bool] = mapped_column(server_default=text("true"))
    params: Mapped[dict[str, Any]] = empty("{}")
    priority: Mapped[int | None] = mapped_column(SmallInteger)
    sla: Mapped[timedelta | None]
    timeout: Mapped[timedelta | None]  # of each of its runs
    run_as: Mapped[str | None]
    tags: Mapped[list[str]] = empty("{}")
    settings: Mapped[dict[str, Any]] = empty("{}")  # of a contract
    annotations: Mapped[dict[str, Any]] = empty("{}")
    token_number: Mapped[int] = mapped_column(server_default="1")  # incremented by a rotation
    next_at: Mapped[datetime | None]  # the next instant, if any
    fires_at: Mapped[datetime | None]  # next_at with its jitter
    last_at: Mapped[datetime | None]  # the last instant that was acted upon
    last_enabled_at: Mapped[datetime | None]
    created_by: Mapped[str | None]
    updated_at: Mapped[datetime] = made_at()


class Firing(Base):
    """One instant, or one event, of a schedule. Unique indexes make it fire once."""

    __tablename__ = "firings"
    __table_args__ = (
        partial_index(
            "uq_firings_instant",
            "schedule_id",
            "due_at",
            unique=True,
            where="source_run_id IS NULL",
        ),
        partial_index(
            "uq_firings_event",
            "schedule_id",
            "source_run_id",
            "source_seq",
            unique=True,
            where="source_run_id IS NOT NULL",
        ),
        partial_index("ix_firings_waiting", "id", where="outcome = 'waiting'"),
        Index(None, "schedule_id", "id"),
        UPDATED_OFTEN,
    )

    id: Mapped[RowId]
    tenant_id: Mapped[UUID]
    schedule_id: Mapped[UUID] = mapped_column(ForeignKey("schedules.id", ondelete="CASCADE"))
    due_at: Mapped[datetime]
    source_run_id: Mapped[UUID | None]  # of type event: the run that ended
    source_seq: Mapped[int | None]  # and the number of its event
    outcome: Mapped[FiringOutcome] = mapped_column(server_default=FiringOutcome.WAITING.value)
    detail: Mapped[str | None]
    run_id: Mapped[UUID | None]
    created_at: Mapped[datetime] = made_at()


class Backfill(TenantResource, Base):
    """Runs for a range of a schedule's instants."""

    __tablename__ = "backfills"
    __table_args__ = (
        Index(None, "number", "tenant_id", unique=True),
        Index(None, "tenant_id", "id"),
        partial_index("ix_backfills_running", "id", where="state = 'running'"),
    )

    schedule_id: Mapped[UUID] = mapped_column(ForeignKey("schedules.id", ondelete="CASCADE"))
    workflow: Mapped[str]
    start_at: Mapped[datetime]
    end_at: Mapped[datetime]
    parallel: Mapped[int]  # maximum of open runs
    total: Mapped[int]  # instants in the range
    # Fixed at creation, even if the schedule changes; consumed from the front.
    instants: Mapped[list[datetime]] = mapped_column(ARRAY(DateTime(timezone=True)), deferred=True)
    submitted: Mapped[int] = mapped_column(server_default="0")
    refused: Mapped[int] = mapped_column(server_default="0")  # instants without a run
    detail: Mapped[str | None]  # the reason of the last refusal
    state: Mapped[BackfillState] = mapped_column(server_default=BackfillState.RUNNING.value)
    params: Mapped[dict[str, Any]] = empty("{}")
    priority: Mapped[int | None] = mapped_column(SmallInteger)
    reason: Mapped[str | None]
    submitted_by: Mapped[str | None]
    finished_at: Mapped[datetime | None]
