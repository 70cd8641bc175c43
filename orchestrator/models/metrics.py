"""The tables of how the system does: its workers, its backlog, and what ended when."""

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import BigInteger, Identity, Index, SmallInteger
from sqlalchemy.orm import Mapped, mapped_column

from orchestrator.models.base import Base, empty, made_at


class Worker(Base):
    """One worker process, as it last said itself."""

    __tablename__ = "workers"

    name: Mapped[str] = mapped_column(primary_key=True)  # Celery's name of it
    host: Mapped[str]
    pid: Mapped[int]
    pool: Mapped[str]
    queues: Mapped[list[str]]
    capacity: Mapped[int]  # steps at once
    active: Mapped[int]
    draining: Mapped[bool]
    drain_by: Mapped[datetime | None]  # told to drain: what still runs then, it hands back
    usage: Mapped[dict[str, Any]] = empty("{}")  # CPU, memory and disk of the host
    versions: Mapped[dict[str, Any]] = empty("{}")
    started_at: Mapped[datetime]
    seen_at: Mapped[datetime] = made_at()


class Backlog(Base):
    """How many runs wait, by spans of their numbers; `backlog.fold` keeps it.

    A span of level 1 is 1024 numbers, one of level 2 is 1024 of those.
    """

    __tablename__ = "backlog"

    tenant_id: Mapped[UUID] = mapped_column(primary_key=True)
    level: Mapped[int] = mapped_column(SmallInteger, primary_key=True, autoincrement=False)
    queue: Mapped[str] = mapped_column(primary_key=True)
    priority: Mapped[int] = mapped_column(SmallInteger, primary_key=True, autoincrement=False)
    bucket: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    runs: Mapped[int]


class BacklogChange(Base):
    """What has to be added to the backlog, as a trigger on `runs` notes it.

    Appended, so that nobody waits for the lock of a counter.
    """

    __tablename__ = "backlog_changes"
    __table_args__ = (Index(None, "tenant_id", "queue"),)

    id: Mapped[int] = mapped_column(BigInteger, Identity(always=False), primary_key=True)
    tenant_id: Mapped[UUID]
    queue: Mapped[str]
    priority: Mapped[int] = mapped_column(SmallInteger)
    bucket: Mapped[int] = mapped_column(BigInteger)  # of level 1
    change: Mapped[int]


class Tally(Base):
    """How many runs of one kind there are; `tallies.fold` keeps it.

    Of the states only the terminal ones are counted: the open ones are few, or what is left over.
    """

    __tablename__ = "tallies"
    __table_args__ = (
        Index(
            "uq_tallies_kind",
            "tenant_id",
            "project_id",
            "workflow",
            "schedule_id",
            "state",
            unique=True,
            postgresql_nulls_not_distinct=True,
        ),
    )

    id: Mapped[int] = mapped_column(BigInteger, Identity(always=False), primary_key=True)
    tenant_id: Mapped[UUID]
    project_id: Mapped[UUID | None]
    workflow: Mapped[str]
    schedule_id: Mapped[UUID | None]
    state: Mapped[str]  # a terminal one; empty: whatever the state
    runs: Mapped[int] = mapped_column(BigInteger)


class TallyChange(Base):
    """What has to be added to the tallies, as a trigger on `runs` notes it; appended."""

    __tablename__ = "tally_changes"
    __table_args__ = (Index(None, "tenant_id"),)

    id: Mapped[int] = mapped_column(BigInteger, Identity(always=False), primary_key=True)
    tenant_id: Mapped[UUID]
    project_id: Mapped[UUID | None]
    workflow: Mapped[str]
    schedule_id: Mapped[UUID | None]
    state: Mapped[str]
    change: Mapped[int]


class Throughput(Base):
    """The runs of a workflow that ended in one minute, counted once that minute is over."""

    __tablename__ = "throughput"
    __table_args__ = (Index(None, "minute"),)

    tenant_id: Mapped[UUID] = mapped_column(primary_key=True)
    minute: Mapped[datetime] = mapped_column(primary_key=True)
    workflow_id: Mapped[UUID] = mapped_column(primary_key=True)
    queue: Mapped[str] = mapped_column(primary_key=True)
    state: Mapped[str] = mapped_column(primary_key=True)
    runs: Mapped[int]
    waited: Mapped[float]  # seconds from due to started, summed
    worked: Mapped[float]  # seconds from started to finished, summed


class Estimate(Base):
    """The median seconds of a step of a workflow, over its last runs."""

    __tablename__ = "estimates"

    workflow_id: Mapped[UUID] = mapped_column(primary_key=True)
    step: Mapped[str] = mapped_column(primary_key=True)  # its key; empty: the whole run
    tenant_id: Mapped[UUID]
    seconds: Mapped[float]
    samples: Mapped[int]
    updated_at: Mapped[datetime] = made_at()
