"""Map runs to execution logs."""

from collections.abc import Container, Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from sqlalchemy.orm import Session

from api.contracts.opendatadsl.requests import Search
from api.contracts.opendatadsl.responses import Execution
from api.contracts.opendatadsl.vocabulary import DATA, PHASE, PHASE_VISIBLE
from api.toolkit.context import caller
from orchestrator.access.permissions import Verb
from orchestrator.db import Row
from orchestrator.outputs import summaries
from orchestrator.outputs.logs import log_ends, log_ends_of_steps
from orchestrator.search import queries
from orchestrator.search.compiler import FieldSelection

Log = dict[str, Any]

_MAX_STEP_LINES = 1000  # of each step of one execution
_MAX_RUN_LINES, _MAX_LIST_LINES = 50, 5000  # of each execution in a list, and of the whole list
_LEVELS = ((50, "fatal"), (40, "error"), (30, "warning"), (20, "info"))
_ORDER = tuple(Execution._declared_fields)
_PHASE = FieldSelection(PHASE, PHASE_VISIBLE, of_steps=True)


def logs(session: Session, tenant_id: UUID, query: Search, *, whole: bool = False) -> list[Log]:
    """A page of execution logs, each with the last lines of its output; `whole`: of each step's.

    A caller who may not read logs gets no lines.
    """
    positions = queries.page_of_runs(
        session,
        tenant_id,
        query.condition,
        query.sort,
        limit=query.limit,
        offset=query.skip,
        after=query.after,
    )
    query.positions, ids = positions, [position[-1] for position in positions]
    rows = queries.values_of_runs(session, ids, query.fields)
    logs: list[Log] = [dict(zip(query.fields.values, row[1:], strict=True)) for row in rows]
    started = [run_id for run_id, log in zip(ids, logs, strict=True) if log["start"] is not None]
    heads = {name.partition(".")[0] for name in query.project or _ORDER}
    if "data" in heads:
        written = summaries.data_of_runs(session, started)
        for run_id, log in zip(ids, logs, strict=True):
            data = {kind: written.get(run_id, {}).get(kind, {}) for kind in DATA}
            log["data"] = data if any(data.values()) else None
    if "phases" in heads and not caller().may("outputs", Verb.READ):
        _add_phases(session, ids, logs, ())
    elif "phases" in heads and not whole:
        limit = min(_MAX_RUN_LINES, _MAX_LIST_LINES // max(1, len(ids)))
        lines = log_ends(session, started, limit) if limit and started else ()
        _add_phases(session, ids, logs, lines)
    elif "phases" in heads:
        lines = [line for each in ids for line in log_ends_of_steps(session, each, _MAX_STEP_LINES)]
        _add_phases(session, ids, logs, lines)
    return [_project(log, query.project) for log in logs]


def _add_phases(
    session: Session, ids: Sequence[UUID], logs: Sequence[Log], lines: Sequence[Row]
) -> None:
    texts: dict[tuple[UUID, str], list[str]] = {}
    for line in lines:
        texts.setdefault((line.run_id, line.step), []).append(_line(line))
    for log in logs:
        log["phases"] = []
    for row in queries.values_of_runs(session, ids, _PHASE):
        values: Log = dict(zip(_PHASE.values, row[1:], strict=True))
        phase = {name: value for name, value in values.items() if value is not None}
        phase["log"] = texts.get((ids[row.place - 1], phase["name"]), [])
        logs[row.place - 1]["phases"].append(phase)


def _project(log: Log, fields: Sequence[str]) -> Log:
    """The `_id` and these fields of a log (all for none), in published order, without nulls."""
    names = {"_id", *(fields or _ORDER)}
    parts: dict[str, set[str]] = {}
    for name in names:
        head, _, rest = name.partition(".")
        parts.setdefault(head, set()).add(rest.partition(".")[0])
    return {
        name: log[name] if name in names else _select(log[name], parts[name])
        for name in _ORDER
        if name in parts and log.get(name) is not None
    }


def columns(fields: Sequence[str]) -> Sequence[str]:
    """The fields that logs may have at the top: these, or all for none."""
    heads = {"_id", *(name.partition(".")[0] for name in fields or _ORDER)}
    return [name for name in _ORDER if name in heads]


def _select(value: Any, names: Container[str]) -> Any:
    """These members of an object, or of each object in a list."""
    if isinstance(value, list):
        return [_select(each, names) for each in value]
    if not isinstance(value, dict):
        return value
    return {name: each for name, each in value.items() if name in names}


def _line(line: Any) -> str:
    """`2021-07-01T16:30:13.390935800Z[UTC] info Completed EXTRACT`"""
    seconds, nanoseconds = divmod(line.time_ns, 1_000_000_000)
    moment = datetime.fromtimestamp(seconds, UTC)
    level = next((word for least, word in _LEVELS if line.level >= least), "debug")
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{nanoseconds:09}Z[UTC] {level} {line.text}"
