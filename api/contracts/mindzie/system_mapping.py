"""The system and its queue, in the shapes of this API."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from api.contracts.mindzie import formatting
from api.contracts.mindzie.mapping import Shape
from api.contracts.mindzie.vocabulary import HEALTH, NODES, priority_of
from orchestrator.db import Row
from orchestrator.monitoring.status import SystemStatus


def status(found: SystemStatus) -> Shape:
    """The whole system at a glance."""
    ended, hosts = found.runs, found.resources
    rate = ended["success_rate"]
    return {
        "system_status": HEALTH[found.status],
        "timestamp": found.timestamp,
        "execution_nodes": [_node(node) for node in found.nodes],
        "queue_statistics": _statistics(found),
        "performance_metrics": {
            "jobs_completed_today": ended["succeeded_today"],
            "average_job_duration": formatting.about(ended["mean_duration_seconds"]),
            "success_rate": 100.0 if rate is None else round(rate * 100, 1),
            "throughput_per_hour": ended["throughput_per_hour"],
        },
        "resource_utilization": {
            "total_cpu_capacity": hosts["cpus"],
            "used_cpu_capacity": round(hosts["cpu_used"]),
            "total_memory_capacity": formatting.size(hosts["memory_total"]),
            "used_memory_capacity": formatting.size(hosts["memory_used"]),
            "disk_space_available": formatting.size(hosts["disk_free"]),
        },
    }


def queue(found: SystemStatus, jobs: Sequence[Shape]) -> Shape:
    """The queue, and who works on it."""
    present = [node for node in found.nodes if node.status != "offline"]
    active = [node for node in present if node.status == "active"]
    places, busy = sum(node.capacity for node in active), sum(node.active for node in active)
    return {
        "queue_status": "Active" if active else "Stalled",
        "timestamp": datetime.now(UTC),
        "summary": {
            **{f"{word.lower()}_priority_jobs": n for word, n in _by_word(found).items()},
            **_waits(found),
        },
        "processing_capacity": {
            "active_workers": len(active),
            "total_workers": len(present),
            "current_load": round(100 * busy / places) if places else 0,
            "max_concurrent_jobs": places,
            "currently_running": busy,
        },
        "queued_jobs": jobs,
    }


def _node(node: Row) -> Shape:
    usage: Mapping[str, float] = node.usage
    memory = usage.get("memory_total", 0)
    return {
        "node_id": node.name,
        "status": NODES[node.status],
        "cpu_usage": round(usage.get("cpu_percent", 0)),
        "memory_usage": round(100 * usage.get("memory_used", 0) / memory) if memory else 0,
        "active_jobs": node.active,
        "job_capacity": node.capacity,
    }


def _statistics(found: SystemStatus) -> Shape:
    words = _by_word(found)
    return {
        "high_priority_jobs": words["High"] + words["Critical"],
        "normal_priority_jobs": words["Normal"],
        "low_priority_jobs": words["Low"],
        **_waits(found),
    }


def _waits(found: SystemStatus) -> Shape:
    return {
        "total_queued_jobs": sum(_by_word(found).values()),
        "average_wait_time": formatting.about(found.queues["average_wait_seconds"]),
        "estimated_processing_time": formatting.about(found.queues["estimated_drain_seconds"]),
    }


def _by_word(found: SystemStatus) -> dict[str, int]:
    words = {"Critical": 0, "High": 0, "Normal": 0, "Low": 0}
    # To this API a job is queued until a worker takes it.
    for name in ("by_priority", "admitted_by_priority"):
        for rank, runs in found.queues[name].items():
            words[priority_of(rank)] += runs
    return words
