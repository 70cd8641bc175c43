"""Progress, messages, metrics, warnings, data and resource usage of runs and steps.

Each function costs a fixed number of statements, however many runs a page has.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from graphlib import TopologicalSorter
from itertools import chain
from types import SimpleNamespace
from typing import Any
from uuid import UUID

from sqlalchemy.orm import Session

from orchestrator.db import Row, statements, transitions
from orchestrator.models import Run
from orchestrator.states import FINAL_RUNS, OPEN_STEPS, RunState, SkipCause, satisfies
from orchestrator.work_limits import in_turns

Usage = dict[str, float]
Data = dict[str, dict[str, list[str]]]

_MAX_ETA = 10 * 365 * 86400.0  # seconds; a longer estimate is clipped

# What a step has once reached counts until it has ended well: a run's share must not fall when an
# attempt fails.
_COUNTS = f"""
    SELECT run_id, count(*) AS steps, count(*) FILTER (WHERE satisfied) AS done,
        coalesce(sum(furthest) FILTER (WHERE NOT satisfied), 0) AS partly
    FROM (
        SELECT run_id, furthest, coalesce({transitions.SATISFIED}, false) AS satisfied
        FROM steps need LEFT JOIN (
            SELECT step_id, max(progress) AS furthest
            FROM outputs JOIN runs ON runs.id = run_id AND outputs.updated_at >= runs.started_at
            WHERE run_id = ANY(CAST(:ids AS uuid[])) GROUP BY step_id
        ) output ON output.step_id = need.id
        WHERE run_id = ANY(CAST(:ids AS uuid[])) AND skip_cause IS DISTINCT FROM 'disabled'
    ) counted GROUP BY run_id
"""
_OPEN_STEPS = """
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
_OUTPUTS = """
    SELECT outputs.run_id, outputs.metrics, outputs.warnings, outputs.data
    FROM outputs JOIN steps ON steps.id = outputs.step_id AND steps.attempt = outputs.attempt
    WHERE outputs.run_id = ANY(CAST(:ids AS uuid[]))
      AND (outputs.metrics <> '{}' OR outputs.warnings <> '[]' OR outputs.data <> '{}')
    ORDER BY outputs.run_id, steps.position
"""
_DATA = """
    SELECT outputs.run_id, outputs.data
    FROM outputs JOIN steps ON steps.id = outputs.step_id AND steps.attempt = outputs.attempt
    WHERE outputs.run_id = ANY(CAST(:ids AS uuid[])) AND outputs.data <> '{}'
    ORDER BY outputs.run_id, steps.position
"""
_USAGE = """
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
_STEP_OUTPUTS = """
    SELECT steps.key, outputs.progress, outputs.stage, outputs.message, outputs.metrics,
        outputs.warnings, attempts.usage
    FROM steps
    LEFT JOIN outputs ON outputs.step_id = steps.id AND outputs.attempt = steps.attempt
    LEFT JOIN attempts ON attempts.step_id = steps.id AND attempts.number = steps.attempt
    WHERE steps.run_id = :run_id
"""


@dataclass(frozen=True, kw_only=True)
class StepOutput:
    """The output of a step's latest attempt."""

    percent: int | None = None
    stage: str | None = None
    message: str | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    warnings: list[dict[str, Any]] = field(default_factory=list)
    usage: Usage | None = None


@dataclass(frozen=True, kw_only=True)
class RunOutput(StepOutput):
    """The outputs of a run's steps, merged; stage and message are of the first running one."""

    percent: int = 0  # 100 only for a run that succeeded
    eta: datetime | None = None  # None: unknown, or the run has ended
    data: Data = field(default_factory=dict)
    usage: Usage = field(default_factory=dict)
    worker: str | None = None  # of the attempt that started last


def summaries_of_runs(session: Session, runs: Sequence[Run]) -> Mapping[UUID, RunOutput]:
    """The merged output of each run, by id."""
    live = [run.id for run in runs if run.state not in FINAL_RUNS]
    started = [run.id for run in runs if run.started_at is not None]
    # Some of their steps may have ended; a retry starts with the steps that it keeps.
    begun = (run for run in runs if run.started_at is not None or run.retry_of is not None)
    partly_done = [run.id for run in begun if run.state != RunState.SUCCEEDED]
    counts = {row.run_id: row for row in _rows(session, _COUNTS, partly_done)}
    open_steps = _by_run(_rows(session, _OPEN_STEPS, live))
    outputs = _by_run(_rows(session, _OUTPUTS, started))
    usage = {row.run_id: row for row in _rows(session, _USAGE, started)}
    return {
        run.id: _run_output(
            run, counts.get(run.id), open_steps[run.id], outputs[run.id], usage.get(run.id)
        )
        for run in runs
    }


def summary_of_run(run: Any, steps: Sequence[Any], usage: Mapping[str, Any] | None) -> RunOutput:
    """The same of one run, whose steps were read with their output."""
    counts = None
    if run.started_at is not None or run.retry_of is not None:
        counted = [each for each in steps if each.skip_cause != SkipCause.DISABLED]
        open_ = [
            each
            for each in counted
            if not satisfies(each.state, each.skip_cause, each.allow_failure)
        ]
        counts = SimpleNamespace(
            steps=len(counted),
            done=len(counted) - len(open_),
            partly=sum(each.furthest or 0 for each in open_),
        )
    open_steps = [each for each in steps if each.state in OPEN_STEPS]
    outputs = [
        SimpleNamespace(metrics=each.metrics, warnings=each.warning_list, data=each.data)
        for each in steps
        if each.metrics or each.warning_list or each.data
    ]
    used = SimpleNamespace(_mapping=usage, **usage) if usage else None
    return _run_output(run, counts, open_steps, outputs, used)


def data_of_runs(session: Session, run_ids: Sequence[UUID]) -> Mapping[UUID, Data]:
    """The ids that runs wrote, by run, kind and day; runs that wrote none are absent."""
    by_run = _by_run(_rows(session, _DATA, list(run_ids)))
    return {run_id: _merged_data(row.data for row in rows) for run_id, rows in by_run.items()}


def metrics_of_runs(session: Session, runs: Sequence[Run]) -> Mapping[UUID, dict[str, float]]:
    """The metrics of runs, by id; runs without any output are absent."""
    started = [run.id for run in runs if run.started_at is not None]
    by_run = _by_run(_rows(session, _OUTPUTS, started))
    return {run_id: _merged_metrics(rows) for run_id, rows in by_run.items()}


def summaries_of_steps(session: Session, run: Run) -> Mapping[str, StepOutput]:
    """The output of each step of a run, by key."""
    return {
        row.key: StepOutput(
            percent=None if row.progress is None else int(row.progress * 100),
            stage=row.stage,
            message=row.message,
            metrics=row.metrics or {},
            warnings=row.warnings or [],
            usage=row.usage,
        )
        for row in in_turns(statements.rows(session, _STEP_OUTPUTS, run_id=run.id))
    }


def _rows(session: Session, sql: str, ids: list[UUID]) -> Sequence[Row]:
    return statements.rows(session, sql, ids=ids) if ids else ()


def _by_run(rows: Iterable[Row]) -> defaultdict[UUID, list[Row]]:
    by_run: defaultdict[UUID, list[Row]] = defaultdict(list)
    for row in in_turns(rows):
        by_run[row.run_id].append(row)
    return by_run


def _run_output(
    run: Run, counts: Any, open_steps: Sequence[Any], outputs: Sequence[Any], usage: Any
) -> RunOutput:
    share = _share(run, counts)
    running = next((step for step in open_steps if step.state == "running"), None)
    left = _seconds_left(run, share, open_steps) if open_steps else None
    return RunOutput(
        percent=100 if run.state == RunState.SUCCEEDED else min(99, int(share * 100)),
        stage=(running.stage or running.name) if running else None,
        message=running.message if running else None,
        eta=None if left is None else datetime.now(UTC) + timedelta(seconds=left),
        metrics=_merged_metrics(outputs),
        warnings=_merged_warnings(row.warnings for row in outputs),
        data=_merged_data(row.data for row in outputs),
        usage=_usage(usage._mapping) if usage else {},
        worker=usage.worker if usage else None,
    )


def _share(run: Run, counts: Any) -> float:
    """The share of the run that is done: 1 for a step that ended well, else its progress."""
    if run.state == RunState.SUCCEEDED:
        return 1.0
    if counts is None or not counts.steps:
        return 0.0
    return float((counts.done + counts.partly) / counts.steps)


def _seconds_left(run: Run, share: float, open_steps: Sequence[Any]) -> float | None:
    """Until the run ends: the longest path of open steps, else by the rate so far."""
    durations = {step.key: _step_seconds_left(step) for step in in_turns(open_steps)}
    if any(seconds is None for seconds in durations.values()):
        if run.started_at is None or share <= 0:
            return None
        elapsed = (datetime.now(UTC) - run.started_at).total_seconds()
        return min(max(0.0, elapsed * (1 - share) / share), _MAX_ETA)
    needs = {step.key: [key for key in step.needs if key in durations] for step in open_steps}
    ends: dict[str, float] = {}
    for key in in_turns(TopologicalSorter(needs).static_order()):
        starts_in = max((ends[need] for need in needs[key]), default=0.0)
        ends[key] = starts_in + (durations[key] or 0.0)
    return min(max(ends.values()), _MAX_ETA)


def _step_seconds_left(step: Any) -> float | None:
    """By the duration of past attempts, else extrapolated from the step's progress."""
    elapsed = step.elapsed if step.state == "running" else 0.0
    waits = max(0.0, step.wakes_in or 0.0)
    if step.seconds is not None:
        return float(waits + max(0.0, step.seconds - elapsed))
    if step.state == "running" and step.progress:
        return float(elapsed * (1 - step.progress) / step.progress)
    return None


def _merged_metrics(outputs: Iterable[Any]) -> dict[str, float]:
    return {name: value for row in outputs for name, value in row.metrics.items()}


def _merged_warnings(each: Iterable[list[dict[str, Any]]]) -> list[dict[str, Any]]:
    counted: Counter[tuple[str, str]] = Counter()
    for warning in chain.from_iterable(each):
        counted[warning["type"], warning["message"]] += warning["count"]
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
