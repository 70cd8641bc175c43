"""The status of the system for a tenant, and when waiting runs start; no rows of `runs` counted."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.orm import Session

from orchestrator.models import Run
from orchestrator.monitoring import backlog, throughput, workers
from orchestrator.monitoring.queues import QueueState, page_of_queues, queue_names, queue_outlook
from orchestrator.monitoring.workers import is_short_of_processes
from orchestrator.states import RunState

_MAX_ESTIMATE = 365 * 24 * 3600.0  # seconds; beyond a year an estimate is of no use


@dataclass(frozen=True)
class WaitEstimate:
    """The position of a waiting run, and when it may start."""

    position: int  # 1 goes first
    estimated_start_at: datetime | None  # None: unknown


@dataclass(frozen=True, kw_only=True)
class SystemStatus:
    """The status of the system for one tenant."""

    status: str  # healthy, degraded or unhealthy
    reasons: Sequence[str]  # why it is not healthy
    nodes: Sequence[SimpleNamespace]  # workers
    queues: Mapping[str, Any]
    runs: Mapping[str, Any]
    resources: Mapping[str, Any]
    timestamp: datetime


def wait_estimates(session: Session, runs: Sequence[Run]) -> Mapping[UUID, WaitEstimate]:
    """Position and estimated start of those of a tenant's runs that only wait for their turn."""
    places = [
        (run, place)
        for run in runs
        if run.state == RunState.QUEUED or (run.state == RunState.PENDING and run.due)
        if (place := backlog.place_of(session, run.tenant_id, run.id)) is not None
    ]
    return _estimates(session, places[0][0].tenant_id, places) if places else {}


def first_in_line(session: Session, tenant_id: UUID, limit: int) -> list[tuple[Run, WaitEstimate]]:
    """A tenant's first `limit` waiting runs over all its queues, in rank order."""
    places = backlog.first_in_line(session, tenant_id, queue_names(session, tenant_id), limit)
    statement = select(Run).where(Run.id.in_(places)).execution_options(populate_existing=True)
    runs = {run.id: run for run in session.scalars(statement)}
    present = [(runs[each], place) for each, place in places.items() if each in runs]
    estimates = _estimates(session, tenant_id, present)
    return [(runs[each], estimate) for each, estimate in estimates.items()]


def system_status(
    session: Session, tenant_id: UUID, alias: workers.Alias, *, broker_answers: bool
) -> SystemStatus:
    """Workers, queues, runs that ended today, and the resources of the hosts."""
    nodes = workers.page_of_workers(session, tenant_id, alias)
    states = page_of_queues(session, tenant_id)
    ended = throughput.count_ended(session, tenant_id)
    admitted = backlog.count_admitted(session, tenant_id)
    by_priority = sum((Counter(state.by_priority) for state in states), Counter[int]())
    unstarted = {
        state.name: state.waiting + sum(admitted.get(state.name, {}).values()) for state in states
    }
    health, reasons = _health(states, nodes, alias, broker_answers)
    return SystemStatus(
        status=health,
        reasons=reasons,
        nodes=nodes,
        queues={
            "waiting": sum(state.waiting for state in states),
            "by_priority": dict(sorted(by_priority.items(), reverse=True)),
            "admitted_by_priority": sum(map(Counter, admitted.values()), Counter[int]()),
            "not_due_by_priority": backlog.count_not_due(session, tenant_id),
            "average_wait_seconds": ended["average_wait_seconds"],
            "estimated_drain_seconds": _drain(
                session, tenant_id, unstarted, ended["mean_duration_seconds"]
            ),
        },
        runs=ended,
        resources=_resources(nodes),
        timestamp=datetime.now(UTC),
    )


def _estimates(
    session: Session, tenant_id: UUID, places: Sequence[tuple[Run, backlog.QueuePlace]]
) -> dict[UUID, WaitEstimate]:
    outlook = queue_outlook(session, tenant_id, sorted({place.queue for _, place in places}))
    without_pace = {
        run.workflow_id
        for run, place in places
        if outlook[place.queue].free < place.position and outlook[place.queue].pace is None
    }
    typical = throughput.typical_seconds(session, tenant_id, without_pace) if without_pace else {}
    return {
        run.id: wait_estimate(
            {
                **outlook[place.queue]._mapping,
                "position": place.position,
                "typical": typical.get(run.workflow_id),
            }
        )
        for run, place in places
    }


def wait_estimate(wait: Mapping[str, Any]) -> WaitEstimate:
    """Now if a worker is free, else by the recent pace, else by a run's typical duration."""
    now, position = datetime.now(UTC), wait["position"]
    if wait["free"] >= position:
        return WaitEstimate(position, now)
    typical = wait["typical"]
    pace = wait["pace"] or (wait["capacity"] / typical if typical else None)
    if not pace or position / pace > _MAX_ESTIMATE:
        return WaitEstimate(position, None)
    return WaitEstimate(position, now + timedelta(seconds=position / pace))


def _health(
    states: Sequence[QueueState],
    nodes: Sequence[SimpleNamespace],
    alias: workers.Alias,
    broker_answers: bool,
) -> tuple[str, list[str]]:
    starving = [state for state in states if state.starves]
    lacking = [state for state in states if not state.workers and state.start_error]
    busy = [state for state in states if state.waiting or state.in_window or state.runnable]
    reasons = [
        f"no active worker listens to queue {state.name!r}"
        + (f": {workers.start_error_as(state.start_error, alias)}" if state.start_error else "")
        for state in states
        if state in starving or state in lacking
    ]
    if short := [node for node in nodes if is_short_of_processes(node)]:
        count = "a worker has" if len(short) == 1 else f"{len(short)} workers have"
        reasons.append(f"{count} fewer processes than configured")
    if not broker_answers:
        reasons.insert(0, "the broker does not answer: what is accepted waits")
    if not broker_answers or (starving and len(starving) == len(busy)):
        return "unhealthy", reasons
    return "degraded" if reasons else "healthy", reasons


def _drain(
    session: Session, tenant_id: UUID, unstarted: Mapping[str, int], typical: float | None
) -> float | None:
    """Seconds until the slowest queue is empty; None when the pace of one is unknown.

    That is the recent one, else what its workers do in the typical duration of a run.
    """
    names = [name for name, runs in unstarted.items() if runs]
    seconds = [0.0]
    for name, row in queue_outlook(session, tenant_id, names).items():
        pace = row.pace or (row.capacity / typical if typical else None)
        if not pace:
            return None
        seconds.append(unstarted[name] / pace)
    return max(seconds)


def _resources(nodes: Sequence[SimpleNamespace]) -> dict[str, Any]:
    """The sum over the hosts, each by the latest report of its workers."""
    present = sorted((node for node in nodes if node.status != "offline"), key=lambda n: n.seen_at)
    hosts = {node.host: node.usage for node in present}.values()
    cpu_used = sum(host.get("cpus", 0) * host.get("cpu_percent", 0) / 100 for host in hosts)
    sums = ("cpus", "memory_total", "memory_used", "disk_total", "disk_free")
    totals = {name: sum(host.get(name, 0) for host in hosts) for name in sums}
    return {**totals, "cpu_used": cpu_used}
