"""The tables of steps' outputs: progress, log lines, artifacts.

None has a foreign key to runs: its check would wait for the run's lock, which a log line must not.
"""

import enum
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import BigInteger, Index, SmallInteger, text
from sqlalchemy.orm import Mapped, mapped_column

from orchestrator.models.base import (
    APPENDED,
    UPDATED_IN_PLACE,
    Base,
    Resource,
    RowId,
    empty,
    made_at,
)


class ArtifactKind(enum.StrEnum):
    """The kind of an artifact."""

    REPORT = "report"
    DATA = "data"
    MODEL = "model"
    VISUALIZATION = "visualization"
    RESULT = "result"  # a step's result that is too large for its row


class Output(Base):
    """The latest output of one attempt; no row before its first report."""

    __tablename__ = "outputs"
    __table_args__ = (Index(None, "run_id"), UPDATED_IN_PLACE)

    step_id: Mapped[UUID] = mapped_column(primary_key=True)
    attempt: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    tenant_id: Mapped[UUID]
    run_id: Mapped[UUID]
    progress: Mapped[float | None]  # 0 to 1
    stage: Mapped[str | None]
    message: Mapped[str | None]
    metrics: Mapped[dict[str, Any]] = empty("{}")
    warnings: Mapped[list[dict[str, Any]]] = empty("[]")  # {type, message, count}
    data: Mapped[dict[str, Any]] = empty("{}")  # ids written: {curves|series: {date: [id]}}
    log_lines: Mapped[int] = mapped_column(server_default="0")
    log_dropped: Mapped[int] = mapped_column(server_default="0")  # lines over the limit
    updated_at: Mapped[datetime] = made_at()


class LogLine(Base):
    """One line of an attempt's log or standard output."""

    __tablename__ = "logs"
    __table_args__ = APPENDED

    run_id: Mapped[UUID] = mapped_column(primary_key=True)
    time_ns: Mapped[int] = mapped_column(BigInteger, primary_key=True)  # since 1970, of the worker
    id: Mapped[RowId]
    tenant_id: Mapped[UUID]
    step: Mapped[str]  # its key
    attempt: Mapped[int]
    level: Mapped[int] = mapped_column(SmallInteger)  # as in `logging`
    text: Mapped[str]


class Artifact(Resource, Base):
    """A file that an attempt saved; its bytes are in the artifact store."""

    __tablename__ = "artifacts"
    __table_args__ = (
        Index(None, "number", "tenant_id", unique=True),
        Index("ix_artifacts_saved", "step_id", "attempt", "name", unique=True),
        Index(None, "run_id", "number"),
    )

    tenant_id: Mapped[UUID]
    run_id: Mapped[UUID]
    step_id: Mapped[UUID]
    step: Mapped[str]  # its key
    attempt: Mapped[int]
    name: Mapped[str]  # of the file
    kind: Mapped[ArtifactKind]
    title: Mapped[str]
    primary: Mapped[bool] = mapped_column(server_default=text("false"))
    media_type: Mapped[str]
    size: Mapped[int] = mapped_column(BigInteger)  # bytes
    sha256: Mapped[str]
    records: Mapped[int | None] = mapped_column(BigInteger)
    extra: Mapped[dict[str, Any]] = empty("{}")
    address: Mapped[str]  # in the store
