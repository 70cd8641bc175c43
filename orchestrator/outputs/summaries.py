"""What runs and steps show of their outputs: how far they are, what they said, what they took.

Each function asks a fixed number of questions, however many runs a page has.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from graphlib import TopologicalSorter
from typing import Any
from uuid import UUID

from sqlalchemy.orm import Session

from orchestrator.db import Row, statements, transitions
from orchestrator.models import Run
from orchestrator.states import FINAL_RUNS, RunState

Usage = dict[str, float]
Data = dict[str, dict[str, list[str]]]

_LONGEST = 10 * 365 * 86400.0  # seconds; beyond it an estimate is of no use

_COUNTS = f"""
    SELECT run_id, count(*) FILTER (WHERE skip_cause IS DISTINCT FROM 'disabled') AS steps,
        count(*) FILTER (WHERE skip_cause IS DISTINCT FROM 'disabled'
                         AND coalesce({transitions.SATISFIED}, false)) AS done
    FROM steps need WHERE run_id = ANY(CAST(:ids AS uuid[])) GROUP BY run_id
"""
_OPEN = """
    SELECT steps.run_id, steps.key, steps.name, steps.needs, steps.state, outputs.progress,
        outputs.stage, outputs.message, estimates.seconds,
        CAST(extract(epoch FROM now() - steps.started_at) AS float) AS elapsed,
        CAST(extract(epoch FROM steps.wake_at - now()) AS float) AS wakes_in
    FROM steps JOIN runs ON runs.id = steps.run_id
    LEFT JOIN outputs ON outputs.step_id = steps.id AND outputs.attempt = steps.attempt
    LEFT JOIN estimates ON estimates.workflow_id = runs.workflow_id AND estimates.step = steps.key
    WHERE steps.run_id = ANY(CAST(:ids AS uuid[]))
      AND steps.state IN ('pending', 'queued', 'running', 'waiting')
    ORDER BY steps.run_id, steps.position
"""
_SAID = """
    SELECT outputs.run_id, outputs.metrics, outputs.warnings, outputs.data
    FROM outputs JOIN steps ON steps.id = outputs.step_id AND steps.attempt = outputs.attempt
    WHERE outputs.run_id = ANY(CAST(:ids AS uuid[]))
      AND (outputs.metrics <> '{}' OR outputs.warnings <> '[]' OR outputs.data <> '{}')
    ORDER BY outputs.run_id, steps.position
"""
_WRITTEN = """
    SELECT outputs.run_id, outputs.data
    FROM outputs JOIN steps ON steps.id = outputs.step_id AND steps.attempt = outputs.attempt
    WHERE outputs.run_id = ANY(CAST(:ids AS uuid[])) AND outputs.data <> '{}'
    ORDER BY outputs.run_id, steps.position
"""
_USED = """
    SELECT steps.run_id,
        sum(CAST(usage ->> 'cpu_seconds' AS float)) AS cpu_seconds,
        max(CAST(usage ->> 'peak_memory_bytes' AS bigint)) AS peak_memory_bytes,
        CAST(sum(CAST(usage ->> 'read_bytes' AS bigint)) AS bigint) AS read_bytes,
        CAST(sum(CAST(usage ->> 'write_bytes' AS bigint)) AS bigint) AS write_bytes,
        CAST(sum(CAST(usage ->> 'io_operations' AS bigint)) AS bigint) AS io_operations,
        (array_agg(attempts.worker ORDER BY attempts.started_at DESC))[1] AS worker
    FROM steps JOIN attempts ON attempts.step_id = steps.id
    WHERE steps.run_id = ANY(CAST(:ids AS uuid[]))
    GROUP BY steps.run_id
"""
_OF_STEPS = """
    SELECT steps.key, outputs.progress, outputs.stage, outputs.message, outputs.metrics,
        outputs.warnings, attempts.usage
    FROM steps
    LEFT JOIN outputs ON outputs.step_id = steps.id AND outputs.attempt = steps.attempt
    LEFT JOIN attempts ON attempts.step_id = steps.id AND attempts.number = steps.attempt
    WHERE steps.run_id = :run_id
"""


@dataclass(frozen=True, kw_only=True)
class RunOutput:
    """What a run shows of all that its steps said."""

    percent: int = 0  # 100 only for a run that succeeded
    stage: str | None = None  # of the step that runs
    message: str | None = None
    eta: datetime | None = None  # None: unknown, or it has ended
    metrics: dict[str, float] = field(default_factory=dict)
    warnings: list[dict[str, Any]] = field(default_factory=list)
    data: Data = field(default_factory=dict)
    usage: Usage = field(default_factory=dict)
    worker: str | None = None  # of the attempt that began last


@dataclass(frozen=True, kw_only=True)
class StepOutput:
    """What a step shows of all that its latest attempt said."""

    percent: int | None = None
    stage: str | None = None
    message: str | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    warnings: list[dict[str, Any]] = field(default_factory=list)
    usage: Usage | None = None


def summaries_of_runs(session: Session, runs: Sequence[Run]) -> Mapping[UUID, RunOutput]:
    """What each of the runs shows, by id."""
    short = [run.id for run in runs if _is_partly_done(run)]
    going = [run.id for run in runs if run.state not in FINAL_RUNS]
    began = [run.id for run in runs if run.started_at is not None]
    counts = {row.run_id: row for row in _rows(session, _COUNTS, short)}
    still_open = _by_run(_rows(session, _OPEN, going))
    said = _by_run(_rows(session, _SAID, began))
    used = {row.run_id: row for row in _rows(session, _USED, began)}
    return {
        run.id: _of_run(
            run,
            counts.get(run.id),
            still_open.get(run.id, []),
            said.get(run.id, []),
            used.get(run.id),
        )
        for run in runs
    }


def data_of_runs(session: Session, run_ids: Sequence[UUID]) -> Mapping[UUID, Data]:
    """The ids that runs wrote, of those that wrote any: by kind and day."""
    rows = _by_run(_rows(session, _WRITTEN, list(run_ids)))
    return {run_id: _merged_data(row.data for row in found) for run_id, found in rows.items()}


def metrics_of_runs(session: Session, runs: Sequence[Run]) -> Mapping[UUID, dict[str, float]]:
    """The metrics of runs, of those that have said anything since they started."""
    began = [run.id for run in runs if run.started_at is not None]
    rows = _by_run(_rows(session, _SAID, began))
    return {run_id: _merged_metrics(found) for run_id, found in rows.items()}


def summaries_of_steps(session: Session, run: Run) -> Mapping[str, StepOutput]:
    """What each step of a run shows, by key."""
    return {row.key: _of_step(row) for row in statements.rows(session, _OF_STEPS, run_id=run.id)}


def _is_partly_done(run: Run) -> bool:
    """Whether steps of a run may have ended, though not all; a retry begins with what it keeps."""
    begun = run.started_at is not None or run.retry_of is not None
    return begun and run.state != RunState.SUCCEEDED


def _rows(session: Session, sql: str, ids: list[UUID]) -> Sequence[Row]:
    return statements.rows(session, sql, ids=ids) if ids else ()


def _by_run(rows: Iterable[Row]) -> dict[UUID, list[Row]]:
    found: dict[UUID, list[Row]] = {}
    for row in rows:
        found.setdefault(row.run_id, []).append(row)
    return found


def _of_run(
    run: Run, counts: Row | None, still_open: list[Row], said: list[Row], used: Row | None
) -> RunOutput:
    share = _share(run, counts, still_open)
    speaks = next((step for step in still_open if step.state == "running"), None)
    left = _seconds_left(run, share, still_open) if still_open else None
    return RunOutput(
        percent=100 if run.state == RunState.SUCCEEDED else min(99, int(share * 100)),
        stage=(speaks.stage or speaks.name) if speaks else None,
        message=speaks.message if speaks else None,
        eta=None if left is None else datetime.now(UTC) + timedelta(seconds=left),
        metrics=_merged_metrics(said),
        warnings=_merged_warnings(row.warnings for row in said),
        data=_merged_data(row.data for row in said),
        usage=_usage(used._mapping) if used else {},
        worker=used.worker if used else None,
    )


def _of_step(row: Row) -> StepOutput:
    return StepOutput(
        percent=None if row.progress is None else int(row.progress * 100),
        stage=row.stage,
        message=row.message,
        metrics=row.metrics or {},
        warnings=row.warnings or [],
        usage=row.usage,
    )


def _share(run: Run, counts: Row | None, still_open: list[Row]) -> float:
    """How much of the run is done: a step that has ended counts 1, one that runs as it says."""
    if run.state == RunState.SUCCEEDED:
        return 1.0
    if counts is None or not counts.steps:
        return 0.0
    partly = sum(step.progress or 0 for step in still_open if step.state == "running")
    return float((counts.done + partly) / counts.steps)


def _seconds_left(run: Run, share: float, still_open: list[Row]) -> float | None:
    """Until the run ends: along the longest way of open steps, else by the rate so far."""
    alone = {step.key: _step_seconds_left(step) for step in still_open}
    if any(seconds is None for seconds in alone.values()):
        return _by_rate(run.started_at, share)
    needs = {step.key: [key for key in step.needs if key in alone] for step in still_open}
    ends: dict[str, float] = {}
    for key in TopologicalSorter(needs).static_order():
        begins = max((ends[need] for need in needs[key]), default=0.0)
        ends[key] = begins + (alone[key] or 0.0)
    return min(max(ends.values()), _LONGEST)


def _step_seconds_left(step: Row) -> float | None:
    """By what the step took before, else by how fast it has come so far."""
    elapsed = step.elapsed if step.state == "running" else 0.0
    waits = max(0.0, step.wakes_in or 0.0)
    if step.seconds is not None:
        return float(waits + max(0.0, step.seconds - elapsed))
    if step.state == "running" and step.progress:
        return float(elapsed * (1 - step.progress) / step.progress)
    return None


def _by_rate(started_at: datetime | None, share: float) -> float | None:
    if started_at is None or share <= 0:
        return None
    elapsed = (datetime.now(UTC) - started_at).total_seconds()
    return min(max(0.0, elapsed * (1 - share) / share), _LONGEST)


def _merged_metrics(said: Iterable[Row]) -> dict[str, float]:
    return {name: value for row in said for name, value in row.metrics.items()}


def _merged_warnings(each: Iterable[list[dict[str, Any]]]) -> list[dict[str, Any]]:
    counted: dict[tuple[str, str], int] = {}
    for warning in (warning for warnings in each for warning in warnings):
        what = warning["type"], warning["message"]
        counted[what] = counted.get(what, 0) + warning["count"]
    return [{"type": t, "message": m, "count": count} for (t, m), count in counted.items()]


def _merged_data(each: Iterable[dict[str, Any]]) -> Data:
    merged: dict[str, dict[str, dict[str, None]]] = {}
    for data in each:
        for kind, days in data.items():
            for day, ids in days.items():
                merged.setdefault(kind, {}).setdefault(day, {}).update(dict.fromkeys(ids))
    return {k: {day: list(ids) for day, ids in days.items()} for k, days in merged.items()}


def _usage(row: Mapping[Any, Any]) -> Usage:
    others = ("run_id", "worker")
    return {name: row[name] for name in row if name not in others and row[name] is not None}
