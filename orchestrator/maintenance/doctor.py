"""Check the whole system: the services, the workers, and every invariant of every run."""

import time
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy.exc import SQLAlchemyError

from orchestrator import audit
from orchestrator.broker.client import Broker
from orchestrator.db import schema, statements
from orchestrator.db.database import Database
from orchestrator.errors import Unavailable
from orchestrator.maintenance import checks
from orchestrator.maintenance.checks import Violation
from orchestrator.maintenance.invariants import INVARIANTS
from orchestrator.maintenance.sweeps import without_message
from orchestrator.monitoring.workers import (
    WORKER_STATUS,
    active_listeners,
    count_schedulers,
    failed_starts,
    is_short_of_processes,
)

MIN_REDIS = (6, 2)
UNLINKED_AFTER = timedelta(minutes=1)  # several times what the sweep needs for a row
MAX_CLOCK_SKEW = timedelta(seconds=5)  # between this host's clock and that of Postgres
UNKNOWN_AFTER = timedelta(seconds=30)  # a published message may be in flight for so long
_RECHECK_PAUSE = 2.0  # seconds between the two checks for lost messages
RECENT_START = timedelta(minutes=1)  # in which the sweeps end what an outage of Postgres left
LOST_MESSAGE = "a published step is unknown to the broker and to all workers"
_STATUSES = ("active", "draining", "drained", "offline")

_POSTGRES = """
    SELECT CAST(current_setting('server_version_num') AS int) AS version, clock_timestamp() AS now,
        clock_timestamp() - pg_postmaster_start_time() AS age
"""
_WORKERS = f"SELECT name, seen_at, usage, {WORKER_STATUS} AS status FROM workers ORDER BY name"
_LIVE = "SELECT count(*) AS runs FROM runs WHERE finished_at IS NULL"
_UNSERVED_QUEUES = f"""
    SELECT queue FROM (
        SELECT DISTINCT queue FROM steps WHERE state = 'queued'
        UNION SELECT DISTINCT queue FROM runs WHERE state = 'pending' AND due
    ) used WHERE NOT EXISTS (SELECT FROM {active_listeners("used.queue")}) ORDER BY queue
"""
_UNCLAIMED = """
    SELECT run_id, key, task_id, queue FROM steps
    WHERE state = 'queued' AND published_at < now() - CAST(:unknown AS interval)
"""

# A fact stays None when its service is away.
_FACTS = (
    "redis", "postgres", "clock_difference", "schema", "workers", "unheard_queues", "failed_starts",
    "schedulers", "looked_at", "invariants", "audit",
)  # fmt: skip


@dataclass(kw_only=True)
class DoctorReport:
    """Facts, notices, which may be no fault, and faults."""

    facts: dict[str, Any] = field(default_factory=lambda: dict.fromkeys(_FACTS))
    lines: list[str] = field(default_factory=list)  # the facts, for people
    notices: list[str] = field(default_factory=list)
    mistakes: list[str] = field(default_factory=list)  # faults of the services
    findings: list[Violation] = field(default_factory=list)

    @property
    def is_broken(self) -> bool:
        """Whether there is any fault."""
        return bool(self.mistakes or self.findings)

    def as_dict(self) -> dict[str, Any]:
        """The report as JSON."""
        findings = [each._asdict() for each in self.findings]
        return asdict(self) | {"broken": self.is_broken, "findings": findings}


def examine(database: Database, broker: Broker | None) -> DoctorReport:
    """Check the services, the workers and all runs."""
    report = DoctorReport()
    _check_redis(report, broker)
    try:
        _check_postgres(report, database)
        schema.check_schema(database.engine)
        report.facts["schema"] = schema.latest_version()
        _check_processes(report, database)
        _check_runs(report, database, broker if report.facts["redis"] else None)
        _check_audit(report, database)
    except (SQLAlchemyError, Unavailable) as error:
        message, _, _ = str(getattr(error, "orig", None) or error).strip().partition("\n")
        report.mistakes.append(f"Postgres: {message}")
    return report


def _check_runs(report: DoctorReport, database: Database, broker: Broker | None) -> None:
    """Check every run; with a broker, also whether it has the published messages."""
    with database.transaction() as session:
        # The sums count every run.
        session.connection().exec_driver_sql("SET LOCAL statement_timeout = 0")
        result = checks.check_all_runs(session)
        live = statements.rows(session, _LIVE)[0].runs
    report.findings = result.findings
    if broker is not None:
        report.findings += _lost(database, broker)
    counts = {"runs": result.runs, "live_runs": live, "steps": result.steps}
    counts |= {"events": result.events}
    report.facts |= {"looked_at": counts, "invariants": len(INVARIANTS)}
    report.lines.append(
        f"Looked at {result.runs:,} runs ({live:,} live), {result.steps:,} steps and"
        f" {result.events:,} events for {len(INVARIANTS)} kinds of mistakes"
    )


def _check_redis(report: DoctorReport, broker: Broker | None) -> None:
    report.facts["redis"] = version = None if broker is None else broker.version()
    if broker is None:
        report.notices.append("no Redis is named here, so none was asked")
    elif version is None:
        report.mistakes.append("Redis cannot be reached: what is accepted waits until it can")
    else:
        report.lines.append(f"Redis {version}")
        if _numbers(version) < MIN_REDIS:
            report.mistakes.append(
                f"Redis {version} is too old: {_dotted(MIN_REDIS)} or later is needed"
            )


def _check_postgres(report: DoctorReport, database: Database) -> None:
    """The version of Postgres, and the difference of the clocks."""
    with database.transaction() as session:
        before = datetime.now(UTC)
        row = statements.rows(session, _POSTGRES)[0]
        after = datetime.now(UTC)
    version = row.version // 10_000, row.version % 10_000
    skew = (before + (after - before) / 2 - row.now).total_seconds()
    report.facts |= {"postgres": _dotted(version), "clock_difference": round(skew, 3)}
    report.lines.append(f"Postgres {_dotted(version)}, its clock {-skew:+.2f} s from ours")
    if abs(skew) > MAX_CLOCK_SKEW.total_seconds():
        report.mistakes.append(
            f"this host's clock differs from that of Postgres by {skew:+.1f} s: let NTP set both"
        )
    if row.age < RECENT_START:
        report.notices.append(
            f"Postgres started {row.age.total_seconds():.0f} s ago:"
            " what is overdue now may be done in a minute"
        )


def _check_processes(report: DoctorReport, database: Database) -> None:
    """Workers by status, queues without an active worker, and schedulers."""
    with database.transaction() as session:
        workers = statements.rows(session, _WORKERS)
        unserved = [row.queue for row in statements.rows(session, _UNSERVED_QUEUES)]
        schedulers = count_schedulers(session)
        failures = [row._asdict() for row in failed_starts(session)]
    by_status = dict.fromkeys(_STATUSES, 0)
    for worker in workers:
        by_status[worker.status] += 1
        if worker.status == "offline":
            seen = worker.seen_at.isoformat(timespec="seconds")
            report.notices.append(
                f"worker {worker.name} was last heard of at {seen}; it is forgotten after a day"
            )
        if is_short_of_processes(worker):
            report.mistakes.append(
                f"worker {worker.name} lacks {worker.usage['missing_processes']} of its processes:"
                " it starts them again, or ends"
            )
        if dropped := worker.usage.get("dropped_messages"):
            report.notices.append(
                f"worker {worker.name} has dropped {dropped:,} messages since its start that"
                " nobody of ours wrote: its log says where they came from"
            )
    report.notices += [
        f"work waits in queue {queue}, and no active worker listens to it; start one with:"
        f" orchestrator worker --queues {queue}"
        for queue in unserved
    ]
    for failure in failures:
        at = failure["started_at"].isoformat(timespec="seconds")
        report.notices.append(
            f"worker {failure['worker']} of queue {', '.join(failure['queues'])} did not start"
            f" at {at}: {failure['error']}"
        )
    if not schedulers:
        report.notices.append(
            "no scheduler runs: until one does, what waits is not started, nothing is tried"
            " again, and no schedule fires; start one with: orchestrator scheduler"
        )
    report.facts |= {"workers": by_status, "unheard_queues": unserved}
    report.facts |= {"failed_starts": failures, "schedulers": schedulers}
    counts = ", ".join(f"{count} {status}" for status, count in by_status.items())
    report.lines.append(f"Workers: {counts}; schedulers: {schedulers}")


def _check_audit(report: DoctorReport, database: Database) -> None:
    """Check the chains of the audit log, and that a scheduler links what is recorded."""
    with database.transaction() as session:
        chains = audit.verify(session, patience=UNLINKED_AFTER)
    report.facts["audit"] = {
        name: getattr(chains, name) for name in ("chains", "entries", "verified", "waiting")
    }
    newest = "all" if chains.verified == chains.entries else f"the newest {chains.verified:,}"
    report.lines.append(
        f"Audit log: {chains.entries:,} entries in {chains.chains:,} chains, {newest} verified"
    )
    report.mistakes += chains.mistakes
    if chains.waiting:
        waiting = f"{chains.waiting:,} entries of the audit log wait for their number"
        # Without a scheduler, of which there is a notice already, that is no fault.
        notes = report.mistakes if report.facts["schedulers"] else report.notices
        notes.append(f"{waiting} since more than a minute; a scheduler gives it")


def _lost(database: Database, broker: Broker) -> list[Violation]:
    """Published steps without a message, although the scheduler had time to send it again.

    Checked twice: a worker may receive a message in between, and what Redis has lost is sent again
    within a second of its return.
    """
    if missing := _missing(database, broker):
        time.sleep(_RECHECK_PAUSE)
        missing &= _missing(database, broker)
    return sorted(missing)


def _missing(database: Database, broker: Broker) -> set[Violation]:
    with database.transaction() as session:
        published = statements.rows(session, _UNCLAIMED, unknown=UNKNOWN_AFTER)
    return {
        Violation(LOST_MESSAGE, row.run_id, row.key, f"queue {row.queue}, task {row.task_id}")
        for row in without_message(published, broker)
    }


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".")[:2] if part.isdigit())


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(str(part) for part in version)
