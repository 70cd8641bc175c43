"""How the system does, for one tenant: its waiting runs, and the whole at a glance.

Everything is read from small tables and short stretches of indexes; nothing counts runs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.orm import Session

from orchestrator.db import Row
from orchestrator.models import Run
from orchestrator.monitoring import backlog, throughput, workers
from orchestrator.monitoring.queues import QueueState, page_of_queues, queue_names, queue_outlook
from orchestrator.states import RunState

_ALL = 1000  # workers that a status looks at
_KNOWABLE = 365 * 24 * 3600.0  # seconds; beyond a year an estimate says nothing


@dataclass(frozen=True)
class WaitEstimate:
    """Where a run waits, and when it may start."""

    position: int  # 1 goes first
    estimated_start_at: datetime | None  # None: nothing is known that could tell


@dataclass(frozen=True, kw_only=True)
class SystemStatus:
    """The system as one tenant sees it."""

    status: str  # healthy, degraded or unhealthy
    reasons: Sequence[str]  # why it is not healthy
    nodes: Sequence[Row]
    queues: Mapping[str, Any]
    runs: Mapping[str, Any]
    resources: Mapping[str, Any]
    timestamp: datetime


def wait_estimates(session: Session, runs: Sequence[Run]) -> Mapping[UUID, WaitEstimate]:
    """Place and start of those of a tenant's runs that only wait for their turn."""
    may = [run for run in runs if run.state == RunState.QUEUED or _is_due(run)]
    found = ((run, backlog.place_of(session, run.tenant_id, run.id)) for run in may)
    places = [(run, place) for run, place in found if place is not None]
    return _starts(session, places[0][0].tenant_id, places) if places else {}


def first_in_line(session: Session, tenant_id: UUID, limit: int) -> list[tuple[Run, WaitEstimate]]:
    """A tenant's runs that go first in its queues, in their order."""
    places = backlog.first_in_line(session, tenant_id, queue_names(session, tenant_id), limit)
    asked = select(Run).where(Run.id.in_(places)).execution_options(populate_existing=True)
    runs = {run.id: run for run in session.scalars(asked)}
    still = [(runs[each], place) for each, place in places.items() if each in runs]
    return [(runs[each], found) for each, found in _starts(session, tenant_id, still).items()]


def position(session: Session, run: Run) -> int | None:
    """The rank of a run among its tenant's that wait in its queue; None if it does not wait."""
    place = backlog.place_of(session, run.tenant_id, run.id)
    return place.position if place else None


def estimated_start(session: Session, run: Run) -> datetime | None:
    """When a waiting run may start; None when it does not wait or nothing can tell."""
    waiting = wait_estimates(session, [run]).get(run.id)
    return waiting.estimated_start_at if waiting else None


def system_status(session: Session, tenant_id: UUID, *, broker_answers: bool) -> SystemStatus:
    """Workers, queues, what ended today and what the hosts have left."""
    nodes = workers.page_of_workers(session, tenant_id, limit=_ALL)
    states = page_of_queues(session, tenant_id)
    ended = throughput.count_ended(session, tenant_id)
    health, reasons = _health(states, broker_answers)
    outlook = queue_outlook(session, tenant_id, [state.name for state in states if state.waiting])
    return SystemStatus(
        status=health,
        reasons=reasons,
        nodes=nodes,
        queues={
            "waiting": sum(state.waiting for state in states),
            "by_priority": _by_priority(states),
            "admitted_by_priority": backlog.admitted(session, tenant_id),
            "average_wait_seconds": ended.mean_wait,
            "estimated_drain_seconds": _drain(states, outlook),
        },
        runs=_runs(ended),
        resources=_resources(nodes),
        timestamp=datetime.now(UTC),
    )


def _starts(
    session: Session, tenant_id: UUID, places: Sequence[tuple[Run, backlog.QueuePlace]]
) -> dict[UUID, WaitEstimate]:
    outlook = queue_outlook(session, tenant_id, sorted({place.queue for _, place in places}))
    unknown = {run.workflow_id for run, place in places if _lacks(outlook[place.queue], place)}
    usual = throughput.typical_seconds(session, tenant_id, unknown) if unknown else {}
    return {
        run.id: _waiting(place, outlook[place.queue], usual.get(run.workflow_id))
        for run, place in places
    }


def _is_due(run: Run) -> bool:
    return run.state == RunState.PENDING and run.due


def _lacks(outlook: Row, place: backlog.QueuePlace) -> bool:
    return outlook.free < place.position and outlook.pace is None


def _waiting(place: backlog.QueuePlace, outlook: Row, usual: float | None) -> WaitEstimate:
    """At once if a worker is free, else as fast as runs ended of late, or as they usually take."""
    now = datetime.now(UTC)
    if outlook.free >= place.position:
        return WaitEstimate(place.position, now)
    pace = outlook.pace or (outlook.capacity / usual if usual else None)
    if not pace or place.position / pace > _KNOWABLE:
        return WaitEstimate(place.position, None)
    return WaitEstimate(place.position, now + timedelta(seconds=place.position / pace))


def _health(states: Sequence[QueueState], broker_answers: bool) -> tuple[str, list[str]]:
    starving = [state for state in states if state.starves]
    busy = [state for state in states if state.waiting or state.in_window or state.runnable]
    reasons = [f"no active worker listens to queue {state.name!r}" for state in starving]
    if not broker_answers:
        reasons.insert(0, "the broker does not answer: what is accepted waits")
    if not broker_answers or (starving and len(starving) == len(busy)):
        return "unhealthy", reasons
    return "degraded" if starving else "healthy", reasons


def _by_priority(states: Sequence[QueueState]) -> dict[int, int]:
    found: dict[int, int] = {}
    for state in states:
        for priority, count in state.by_priority.items():
            found[priority] = found.get(priority, 0) + count
    return dict(sorted(found.items(), reverse=True))


def _drain(states: Sequence[QueueState], outlook: Mapping[str, Row]) -> float | None:
    """Seconds until the slowest queue is empty; None when that of one cannot be told."""
    longest = 0.0
    for state in states:
        if state.waiting:
            pace = outlook[state.name].pace
            if not pace:
                return None
            longest = max(longest, state.waiting / pace)
    return longest


def _runs(ended: throughput.EndedRuns) -> dict[str, Any]:
    judged = ended.succeeded + ended.failed
    return {
        "ended_today": ended.ended,
        "succeeded_today": ended.succeeded,
        "failed_today": ended.failed,
        "mean_duration_seconds": ended.mean_duration,
        "success_rate": ended.succeeded / judged if judged else None,
        "throughput_per_hour": ended.last_hour,
    }


def _resources(nodes: Sequence[Row]) -> dict[str, Any]:
    """The sum over the hosts, each as its worker that spoke last sees it."""
    present = sorted((node for node in nodes if node.status != "offline"), key=lambda n: n.seen_at)
    hosts = {node.host: node.usage for node in present}.values()
    return {
        "cpus": sum(host.get("cpus", 0) for host in hosts),
        "cpu_used": sum(host.get("cpus", 0) * host.get("cpu_percent", 0) / 100 for host in hosts),
        **{
            name: sum(host.get(name, 0) for host in hosts)
            for name in ("memory_total", "memory_used", "disk_total", "disk_free")
        },
    }
