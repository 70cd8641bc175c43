"""Looks the whole system over: the services, the workers, and every invariant of every run."""

import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy.exc import SQLAlchemyError

from orchestrator.broker.client import Broker
from orchestrator.db import schema, statements
from orchestrator.db.database import Database
from orchestrator.errors import Unavailable
from orchestrator.maintenance import checks, invariants, repair
from orchestrator.maintenance.checks import CheckResult, Violation
from orchestrator.maintenance.invariants import BY_NAME
from orchestrator.monitoring.workers import OFFLINE_AFTER, SCHEDULER_CONNECTION, WORKER_STATUS

POSTGRES, REDIS = (15, 0), (6, 2)  # the oldest that do
MAX_CLOCK_SKEW = timedelta(seconds=5)  # between this host's clock and that of Postgres
UNKNOWN_AFTER = timedelta(seconds=30)  # a message may be on its way for some of them
_AGAIN = 2.0  # seconds between two looks at what is missing
RECENT_START = timedelta(
    minutes=1
)  # so long after its start Postgres shows what an outage left behind
LOST_MESSAGE = "a published step is unknown to the broker and to all workers"
_STATUSES = ("active", "draining", "drained", "offline")

_POSTGRES = """
    SELECT CAST(current_setting('server_version_num') AS int) AS version, clock_timestamp() AS now,
        clock_timestamp() - pg_postmaster_start_time() AS age
"""
# By the name that each of them gives its connections.
_SCHEDULERS = f"""
    SELECT count(*) AS connected FROM pg_stat_activity
    WHERE datname = current_database() AND backend_type IS DISTINCT FROM 'parallel worker'
      AND application_name = '{SCHEDULER_CONNECTION}'
"""
_WORKERS = f"""
    SELECT name, seen_at, queues, {WORKER_STATUS} AS status FROM workers ORDER BY name
"""
_LIVE = "SELECT count(*) AS runs FROM runs WHERE finished_at IS NULL"
_UNHEARD = f"""
    SELECT queue FROM (
        SELECT DISTINCT queue FROM steps WHERE state = 'queued'
        UNION SELECT DISTINCT queue FROM runs WHERE state = 'pending' AND due
    ) used WHERE NOT EXISTS (
        SELECT FROM workers WHERE used.queue = ANY(workers.queues) AND {WORKER_STATUS} = 'active'
    ) ORDER BY queue
"""
_PUBLISHED = """
    SELECT run_id, key, task_id, queue FROM steps
    WHERE state = 'queued' AND published_at < now() - CAST(:unknown AS interval)
"""


# What is not found out, because a service is away, stays None.
_FACTS = (
    "redis", "postgres", "clock_difference", "schema", "workers", "unheard_queues", "schedulers",
    "looked_at", "invariants",
)  # fmt: skip


@dataclass(kw_only=True)
class DoctorReport:
    """How things are, what may be as it should, and what is wrong."""

    facts: dict[str, Any] = field(default_factory=lambda: dict.fromkeys(_FACTS))
    lines: list[str] = field(default_factory=list)  # the facts, for people
    notices: list[str] = field(default_factory=list)
    mistakes: list[str] = field(default_factory=list)  # of the services
    findings: list[Violation] = field(default_factory=list)
    healed: list[tuple[UUID, str]] = field(default_factory=list)  # what was wrong, by run

    @property
    def is_broken(self) -> bool:
        """Whether anything is wrong."""
        return bool(self.mistakes or self.findings)

    def as_dict(self) -> dict[str, Any]:
        """All of it, for programs."""
        found = [
            each._asdict()
            | {"repair": BY_NAME[each.broken].repair if each.broken in BY_NAME else None}
            for each in self.findings
        ]
        return asdict(self) | {
            "broken": self.is_broken,
            "findings": found,
            "healed": [{"run_id": run_id, "broken": broken} for run_id, broken in self.healed],
        }


def examine(database: Database, broker: Broker | None, *, heal: bool = False) -> DoctorReport:
    """Look everything over; with `heal`, mend what can be mended, and look again."""
    report = DoctorReport()
    _broker(report, broker)
    try:
        _postgres(report, database)
        schema.check_schema(database.engine)
        report.facts["schema"] = schema.latest_version()
        _processes(report, database)
        _runs(report, database, broker if report.facts["redis"] else None, heal=heal)
    except (SQLAlchemyError, Unavailable) as error:
        report.mistakes.append(_first_line(error))
    return report


def _runs(report: DoctorReport, database: Database, broker: Broker | None, *, heal: bool) -> None:
    """Ask about every run; with a broker, also whether it has what was sent to it."""
    look = _look(database)
    if heal:
        report.healed = _heal(database, look.findings)
        look = _look(database) if report.healed else look
    report.findings = look.findings
    if broker is not None:
        report.findings += _lost(database, broker)
    _count(report, database, look)


def _broker(report: DoctorReport, broker: Broker | None) -> None:
    report.facts["redis"] = version = None if broker is None else broker.version()
    if broker is None:
        report.notices.append("no Redis is named here, so none was asked")
    elif version is None:
        report.mistakes.append("Redis cannot be reached: what is accepted waits until it can")
    else:
        report.lines.append(f"Redis {version}")
        if _numbers(version) < REDIS:
            report.mistakes.append(
                f"Redis {version} is too old: {_dotted(REDIS)} or later is needed"
            )


def _postgres(report: DoctorReport, database: Database) -> None:
    """Its version, and how far its clock is from ours."""
    with database.transaction() as session:
        before = datetime.now(UTC)
        told = statements.rows(session, _POSTGRES)[0]
        after = datetime.now(UTC)
    version = told.version // 10_000, told.version % 10_000
    skew = (before + (after - before) / 2 - told.now).total_seconds()
    report.facts |= {"postgres": _dotted(version), "clock_difference": round(skew, 3)}
    report.lines.append(f"Postgres {_dotted(version)}, its clock {-skew:+.2f} s from ours")
    if version < POSTGRES:
        needed = POSTGRES[0]
        report.mistakes.append(
            f"Postgres {_dotted(version)} is too old: {needed} or later is needed"
        )
    if abs(skew) > MAX_CLOCK_SKEW.total_seconds():
        report.mistakes.append(
            f"this host's clock differs from that of Postgres by {skew:+.1f} s: let NTP set both"
        )
    if told.age < RECENT_START:
        report.notices.append(
            f"Postgres started {told.age.total_seconds():.0f} s ago:"
            " what is broken now may be mended in a minute"
        )


def _processes(report: DoctorReport, database: Database) -> None:
    """Who works, who has gone silent, which work nobody listens for, and whether anybody sweeps."""
    given = {"patience": OFFLINE_AFTER}
    with database.transaction() as session:
        workers = statements.rows(session, _WORKERS, **given)
        unheard = [row.queue for row in statements.rows(session, _UNHEARD, **given)]
        schedulers = statements.rows(session, _SCHEDULERS)[0].connected
    by_status = dict.fromkeys(_STATUSES, 0)
    for worker in workers:
        by_status[worker.status] += 1
        if worker.status == "offline":
            seen = worker.seen_at.isoformat(timespec="seconds")
            report.notices.append(
                f"worker {worker.name} was last heard of at {seen}; it is forgotten after a day"
            )
    for queue in unheard:
        report.notices.append(
            f"work waits in queue {queue}, and no active worker listens to it; start one with:"
            f" orchestrator worker --queues {queue}"
        )
    if not schedulers:
        report.notices.append(
            "no scheduler is connected: until one is, what waits is not started, nothing is tried"
            " again, and no schedule fires; start one with: orchestrator scheduler"
        )
    report.facts |= {"workers": by_status, "unheard_queues": unheard, "schedulers": schedulers}
    counted = ", ".join(f"{count} {status}" for status, count in by_status.items())
    report.lines.append(f"Workers: {counted}; schedulers: {schedulers}")


def _look(database: Database) -> CheckResult:
    with database.transaction() as session:
        # The sums count every run.
        session.connection().exec_driver_sql("SET LOCAL statement_timeout = 0")
        return checks.check_all_runs(session)


def _heal(database: Database, found: Iterable[Violation]) -> list[tuple[UUID, str]]:
    """Mend each run in a transaction of its own."""
    healed = []
    for run_id in dict.fromkeys(each.run_id for each in found):
        if run_id is not None:
            with database.transaction() as session:
                healed += [(run_id, broken) for broken in repair.repair_run(session, run_id)]
    return healed


def _lost(database: Database, broker: Broker) -> list[Violation]:
    """Published steps whose message is nowhere, though the scheduler had time to send it again.

    A worker may take a message while we look, and what Redis has lost is sent again within a second
    of its return: so what is missing is looked for twice.
    """
    missing = _missing(database, broker)
    if missing:
        time.sleep(_AGAIN)
        missing = {each for each in _missing(database, broker) if each in missing}
    return sorted(missing)


def _missing(database: Database, broker: Broker) -> set[Violation]:
    with database.transaction() as session:
        published = statements.rows(session, _PUBLISHED, unknown=UNKNOWN_AFTER)
    pending = {queue: broker.pending(queue) for queue in {row.queue for row in published}}
    return {
        Violation(LOST_MESSAGE, row.run_id, row.key, f"queue {row.queue}, task {row.task_id}")
        for row in published
        if (known := pending[row.queue]) is not None and row.task_id not in known
    }


def _count(report: DoctorReport, database: Database, look: CheckResult) -> None:
    """Say what was looked at."""
    with database.transaction() as session:
        live = statements.rows(session, _LIVE)[0].runs
    counts = {"runs": look.runs, "live_runs": live, "steps": look.steps, "events": look.events}
    report.facts |= {"looked_at": counts, "invariants": len(invariants.INVARIANTS)}
    report.lines.append(
        f"Looked at {look.runs:,} runs ({live:,} live), {look.steps:,} steps and"
        f" {look.events:,} events for {len(invariants.INVARIANTS)} kinds of mistakes"
    )


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".")[:2] if part.isdigit())


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(str(part) for part in version)


def _first_line(error: Exception) -> str:
    told, _, _ = str(getattr(error, "orig", None) or error).strip().partition("\n")
    return f"Postgres: {told}"
