"""The tables of monitoring: workers, backlog, counts of runs, throughput, estimates."""

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import BigInteger, Index, SmallInteger
from sqlalchemy.orm import Mapped, mapped_column

from orchestrator.models.base import SHORT_LIVED, Base, RowId, empty, made_at


class Worker(Base):
    """One worker process, as of its last report."""

    __tablename__ = "workers"
    __table_args__ = SHORT_LIVED

    name: Mapped[str] = mapped_column(primary_key=True)  # Celery's node name
    host: Mapped[str]
    pid: Mapped[int]
    pool: Mapped[str]
    queues: Mapped[list[str]]
    capacity: Mapped[int]  # concurrent steps
    active: Mapped[int]
    handlers: Mapped[list[str]] = empty("{}")  # names
    draining: Mapped[bool]
    drain_by: Mapped[datetime | None]  # then a draining worker hands back its steps
    usage: Mapped[dict[str, Any]] = empty("{}")  # CPU, memory and disk of the host
    versions: Mapped[dict[str, Any]] = empty("{}")
    started_at: Mapped[datetime]
    seen_at: Mapped[datetime] = made_at()


class Scheduler(Base):
    """One scheduler process that runs, as of its last report."""

    __tablename__ = "schedulers"
    __table_args__ = SHORT_LIVED

    id: Mapped[UUID] = mapped_column(primary_key=True)  # another one at each start
    started_at: Mapped[datetime] = made_at()
    seen_at: Mapped[datetime] = made_at()


class WorkerStart(Base):
    """The last start of a worker that did not succeed, or has not yet."""

    __tablename__ = "worker_starts"

    worker: Mapped[str] = mapped_column(primary_key=True)  # its name, the same at each start
    queues: Mapped[list[str]] = mapped_column(primary_key=True)
    error: Mapped[str | None]  # None: it has not come to an end
    started_at: Mapped[datetime] = made_at()


class Backlog(Base):
    """Waiting runs per range of numbers; `monitoring.backlog.fold_backlog` maintains it.

    A bucket of level 1 is 1024 numbers, one of level 2 is 1024 of those.
    """

    __tablename__ = "backlog"
    __table_args__ = SHORT_LIVED

    tenant_id: Mapped[UUID] = mapped_column(primary_key=True)
    level: Mapped[int] = mapped_column(SmallInteger, primary_key=True, autoincrement=False)
    queue: Mapped[str] = mapped_column(primary_key=True)
    priority: Mapped[int] = mapped_column(SmallInteger, primary_key=True, autoincrement=False)
    bucket: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    runs: Mapped[int]


class BacklogChange(Base):
    """A change to add to the backlog, written by a trigger on `runs`.

    Appended, so that no transaction waits for the lock of a counter.
    """

    __tablename__ = "backlog_changes"
    __table_args__ = (Index(None, "tenant_id", "queue"), SHORT_LIVED)

    id: Mapped[RowId]
    tenant_id: Mapped[UUID]
    queue: Mapped[str]
    priority: Mapped[int] = mapped_column(SmallInteger)
    bucket: Mapped[int] = mapped_column(BigInteger)  # of level 1
    change: Mapped[int]


class Tally(Base):
    """Runs of each kind; `monitoring.run_counts.fold_run_counts` maintains it.

    Only terminal states are counted: open runs are few, or the difference to the total.
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
        SHORT_LIVED,
    )

    id: Mapped[RowId]
    tenant_id: Mapped[UUID]
    project_id: Mapped[UUID | None]
    workflow: Mapped[str]
    schedule_id: Mapped[UUID | None]
    state: Mapped[str]  # terminal; empty: any state
    runs: Mapped[int] = mapped_column(BigInteger)


class TallyChange(Base):
    """A change to add to the tallies, appended by a trigger on `runs`."""

    __tablename__ = "tally_changes"
    __table_args__ = (Index(None, "tenant_id"), SHORT_LIVED)

    id: Mapped[RowId]
    tenant_id: Mapped[UUID]
    project_id: Mapped[UUID | None]
    workflow: Mapped[str]
    schedule_id: Mapped[UUID | None]
    state: Mapped[str]
    change: Mapped[int]


class Throughput(Base):
    """The runs of a workflow that ended in one minute, written after that minute."""

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
    """The median duration of a step of a workflow, over its last runs."""

    __tablename__ = "estimates"

    workflow_id: Mapped[UUID] = mapped_column(primary_key=True)
    step: Mapped[str] = mapped_column(primary_key=True)  # its key; empty: the run
    tenant_id: Mapped[UUID]
    seconds: Mapped[float]
    samples: Mapped[int]
    updated_at: Mapped[datetime] = made_at()
