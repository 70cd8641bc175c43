"""Checks of the guarantees, on the rows, after the chaos."""

import hashlib
import json
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

from sqlalchemy import text

from orchestrator.outputs.storage import store_of
from tests.chaos import steps
from tests.chaos.invariants import broken
from tests.chaos.load import Load
from tests.chaos.nemesis import Nemesis
from tests.chaos.system import System

_CANCEL_SLACK = 2.0  # seconds that a cancel may take beyond its grace
_CLAIM_LOSS = 2.0  # seconds before a crash of Postgres in which claims may be lost
_ENDS = "('run.succeeded', 'run.failed', 'run.timed_out', 'run.cancelled')"

_MUST_BE_EMPTY = {
    "a step's attempts are not numbered without a gap": """
        SELECT steps.id FROM steps LEFT JOIN attempts ON step_id = steps.id
        GROUP BY steps.id, steps.attempt
        HAVING count(step_id) <> steps.attempt
            OR coalesce(max(attempts.number), 0) <> steps.attempt
    """,
    "a succeeded step was not recorded exactly once": """
        SELECT id FROM steps WHERE state = 'succeeded' AND 1 <> (
            SELECT count(*) FROM attempts WHERE step_id = steps.id AND outcome = 'succeeded')
    """,
    "a result is not that of the attempt that succeeded": """
        SELECT id FROM steps WHERE state = 'succeeded' AND result ? 'attempt'
          AND CAST(result ->> 'attempt' AS int) <> attempt
    """,
    "an attempt was recorded after it was taken away": """
        SELECT late.id FROM events taken JOIN events late USING (run_id, step, attempt)
        WHERE taken.type IN ('step.rescued', 'step.handed_back', 'step.cancelled')
          AND late.type IN ('step.succeeded', 'step.failed', 'step.skipped', 'step.waiting')
          AND late.seq > taken.seq
    """,
    "something happened after a run had ended": f"""
        SELECT later.id FROM events ended JOIN events later USING (run_id)
        WHERE ended.type IN {_ENDS} AND later.seq > ended.seq
    """,
    "two runs with one concurrency key ran at once": """
        SELECT one.id FROM runs one JOIN runs other USING (workflow_id, concurrency_key)
        WHERE one.id <> other.id
          AND one.started_at < other.finished_at AND other.started_at < one.finished_at
    """,
    "something ended before it started": """
        SELECT step_id FROM attempts WHERE finished_at < started_at UNION ALL
        SELECT id FROM steps WHERE finished_at < created_at UNION ALL
        SELECT id FROM runs WHERE finished_at < started_at OR started_at < created_at
    """,
    "a run's events go back in time": """
        SELECT id FROM (
            SELECT id, occurred_at < lag(occurred_at) OVER each_run AS back
            FROM events WINDOW each_run AS (PARTITION BY run_id ORDER BY seq)
        ) followed WHERE back
    """,
    "a lease is of another clock": """
        SELECT step_id FROM attempts WHERE lease_until < started_at
           OR lease_until > coalesce(finished_at, now()) + CAST(:lease AS interval) + interval '1 s'
    """,
}
_RUNS = "SELECT CAST(id AS text), state FROM runs"
_CANCELS = """
    SELECT extract(epoch FROM cancel_requested_at), extract(epoch FROM finished_at),
        extract(epoch FROM coalesce(stop_by, cancel_requested_at))
    FROM runs WHERE cancel_requested_at IS NOT NULL AND finished_at IS NOT NULL
"""
_KILLED = """
    SELECT count(*) FROM attempts
    JOIN steps ON steps.id = step_id JOIN runs ON runs.id = steps.run_id
    WHERE uses LIKE '%.resist' AND outcome = 'cancelled' AND attempts.finished_at >= stop_by
"""
_RECORDED = """
    SELECT CAST(step_id AS text), attempts.number, outcome FROM attempts
    JOIN steps ON steps.id = step_id WHERE uses = 'tests.chaos.steps.note'
"""
_KEEPING = """
    SELECT CAST(step_id AS text), attempts.number, outcome FROM attempts
    JOIN steps ON steps.id = step_id WHERE uses = 'tests.chaos.steps.keep'
"""
_UNSAVED = """
    SELECT attempts.error ->> 'message' FROM attempts JOIN steps ON steps.id = step_id
    WHERE uses = 'tests.chaos.steps.keep' AND outcome = 'failed'
"""
_FILES = "SELECT address, size, sha256 FROM artifacts"


def violations(system: System, load: Load, nemesis: Nemesis) -> dict[str, list[Any]]:
    """Violations by check, with up to 20 examples each; empty when all is well."""
    accepted = load.accepted_runs() | dict.fromkeys(nemesis.probes, "plain")
    states: dict[str, str] = dict(_rows(system, _RUNS))  # type: ignore[arg-type]
    lease = f"{system.settings.lease.total_seconds()} s"
    findings: dict[str, Iterable[Any]] = {
        "requests that failed": load.failures,
        "lost": accepted.keys() - states.keys(),
        "submitted twice": states.keys() - accepted.keys(),
        "ended as it should not": (
            (run_id, kind, states.get(run_id))
            for run_id, kind in accepted.items()
            if states.get(run_id) != _expected(run_id, kind, load)
        ),
        "cancelled too late": [each for each in delays(system, nemesis) if each > _CANCEL_SLACK],
        "recorded but not executed": _unexecuted(system),
        "executed without the right to": _unclaimed(system, nemesis),
        "files that are not whole": _damaged_files(system),
        **broken(system.engine),
        **{name: _first_column(system, query, lease) for name, query in _MUST_BE_EMPTY.items()},
    }
    all_rows = {name: list(rows) for name, rows in findings.items()}
    return {name: rows[:20] for name, rows in all_rows.items() if rows}


def cancel_times(system: System) -> list[float]:
    """Seconds from each cancel to the run's end."""
    return [float(ended - requested) for requested, ended, _ in _rows(system, _CANCELS)]


def delays(system: System, nemesis: Nemesis) -> list[float]:
    """Seconds that each cancelled run went on beyond its grace, while no fault was on."""
    return [
        max((end - max(begin, stop_by) for begin, end in _calm(nemesis, start, ended)), default=0)
        for start, ended, stop_by in (map(float, row) for row in _rows(system, _CANCELS))
    ]


def killed(system: System) -> int:
    """The number of attempts that ignored the order to stop, and were killed after the grace."""
    return int(_rows(system, _KILLED)[0][0])


def executed(system: System) -> dict[str, int]:
    """The number of recorded executions, and of their attempts in the rows by outcome."""
    recorded = {each[:2] for each in steps.diary(system.diary)}
    outcomes = Counter(
        str(outcome)
        for step_id, number, outcome in _rows(system, _RECORDED)
        if (step_id, number) in recorded
    )
    return {"executed": len(recorded), **outcomes}


def refused(system: System) -> list[dict[str, Any]]:
    """The workers' log records of refused late outcomes."""
    return [json.loads(line) for line in system.logs() if '"late outcome refused"' in line]


def unsaved(system: System) -> Counter[str]:
    """The number of failed saves, by error message."""
    return Counter(str(row[0]) for row in _rows(system, _UNSAVED))


def _expected(run_id: str, kind: str, load: Load) -> str:
    if run_id in load.cancelled:
        return "cancelled"
    return "failed" if kind == "failing" else "succeeded"


def _calm(nemesis: Nemesis, begin: float, end: float) -> Iterator[tuple[float, float]]:
    """The parts of a time span in which no fault was on."""
    for _, begun, over in sorted(nemesis.windows, key=lambda window: window.begun):
        if begun > begin:
            yield begin, min(begun, end)
        begin = max(begin, over)
        if begin >= end:
            return
    yield begin, end


def _unexecuted(system: System) -> list[Any]:
    recorded = {each[:2] for each in steps.diary(system.diary)}
    return [
        (step_id, number)
        for step_id, number, outcome in _rows(system, _RECORDED)
        if outcome == "succeeded" and (step_id, number) not in recorded
    ]


def _unclaimed(system: System, nemesis: Nemesis) -> list[steps.Execution]:
    """Executions beyond the one that each attempt in the rows permits.

    Postgres may lose a claim when it crashes; then the same attempt is executed twice.
    """
    rights = {(step_id, number) for step_id, number, _ in _rows(system, _RECORDED)}
    clock_offset = time.time() - time.monotonic()
    violations = []
    for each in reversed(steps.diary(system.diary)):
        if each[:2] in rights:
            rights.remove(each[:2])
        elif not _was_forgotten(nemesis, each.at + clock_offset):
            violations.append(each)
    return violations


def _was_forgotten(nemesis: Nemesis, at: float) -> bool:
    crashes = (each for each in nemesis.windows if each.fault == "postgres crashed")
    return any(each.begun - _CLAIM_LOSS < at < each.over for each in crashes)


def _damaged_files(system: System) -> list[str]:
    """Files that differ from their rows, or are incomplete although their attempt survived."""
    files, root = store_of(system.settings), system.settings.data_dir / "artifacts"
    damaged = [
        address
        for address, size, sha256 in _rows(system, _FILES)
        if not _is_whole(files.read(address), size, sha256)
    ]
    ends = {(step, str(number)): end for step, number, end in _rows(system, _KEEPING)}
    for path in root.glob("*/*/*/*/*"):
        step_id, attempt = path.parts[-3:-1]
        was_alive = ends.get((step_id, attempt)) in ("succeeded", "failed")
        if was_alive and path.stat().st_size != steps.SAVED:
            damaged.append(str(path))
    return damaged


def _is_whole(content: bytes, size: int, sha256: str) -> bool:
    return len(content) == size and hashlib.sha256(content).hexdigest() == sha256


def _first_column(system: System, query: str, lease: str) -> list[Any]:
    params = {"lease": lease} if ":lease" in query else {}
    return [row[0] for row in _rows(system, query, **params)]


def _rows(system: System, query: str, **params: Any) -> list[Any]:
    return system.rows(text(query), **params)
