"""Map runs to execution logs."""

from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from sqlalchemy.orm import Session

from api.contracts.opendatadsl.responses import Execution
from api.contracts.opendatadsl.vocabulary import DATA, DETAILED_RUN, PHASE, PHASE_VISIBLE, RUN
from orchestrator.db import Row
from orchestrator.outputs import summaries
from orchestrator.outputs.logs import log_ends, log_ends_of_steps
from orchestrator.search import queries
from orchestrator.search.compiler import FieldSelection
from orchestrator.search.conditions import Condition, Field, one_of
from orchestrator.search.queries import SearchOrder

Log = dict[str, Any]

_MAX_PHASE_LINES = 1000  # of one execution
_MAX_RUN_LINES, _MAX_LIST_LINES = 50, 5000  # of each execution in a list, and of the whole list
_LEVELS = ((50, "fatal"), (40, "error"), (30, "warning"), (20, "info"))
_ORDER = tuple(Execution._declared_fields)
_PLAIN, _DETAILED = FieldSelection(RUN), FieldSelection(DETAILED_RUN)
_PHASE = FieldSelection(PHASE, PHASE_VISIBLE, of_steps=True)


def logs(
    session: Session,
    tenant_id: UUID,
    condition: Condition,
    order: SearchOrder,
    *,
    limit: int,
    offset: int = 0,
    detailed: bool = False,
    fields: Sequence[str] = (),
) -> list[Log]:
    """A page of execution logs, each with the last lines of its steps' output."""
    ids = queries.page_of_runs(session, tenant_id, condition, order, limit=limit, offset=offset)
    lines = min(_MAX_RUN_LINES, _MAX_LIST_LINES // max(1, len(ids)))

    def read_lines(started: Sequence[UUID]) -> Sequence[Row]:
        return log_ends(session, started, lines) if lines and started else ()

    return _logs(session, ids, read_lines, detailed=detailed, fields=fields)


def log(
    session: Session,
    tenant_id: UUID,
    run_id: UUID,
    *,
    detailed: bool = False,
    fields: Sequence[str] = (),
) -> Log | None:
    """One execution log with the output of its phases; None if no run has this id."""
    ids = queries.page_of_runs(session, tenant_id, one_of(Field("id"), [run_id]), (), limit=1)

    def read_lines(_: Sequence[UUID]) -> Sequence[Row]:
        return log_ends_of_steps(session, run_id, _MAX_PHASE_LINES)

    return next(iter(_logs(session, ids, read_lines, detailed=detailed, fields=fields)), None)


def _project(log: Log, fields: Sequence[str]) -> Log:
    """The `_id` and these fields of a log (all for none), in published order, without nulls."""
    names = {"_id", *fields}
    members = {name: log[name] for name in _ORDER if log.get(name) is not None}
    if not fields:
        return members
    heads = {name.partition(".")[0] for name in names}
    return {
        name: value if name in names else _project_member(value, name, names)
        for name, value in members.items()
        if name in heads
    }


def _project_member(value: Any, name: str, names: Iterable[str]) -> Any:
    """The members of an object, or of each object in a list, that dotted names select."""
    inner = {each.partition(".")[2] for each in names if each.startswith(f"{name}.")}
    if isinstance(value, list):
        return [_select(each, inner) for each in value]
    return _select(value, inner)


def _select(value: Any, inner: Iterable[str]) -> Any:
    if not isinstance(value, dict):
        return value
    heads = {each.partition(".")[0] for each in inner}
    return {name: each for name, each in value.items() if name in heads}


def _includes(fields: Sequence[str], name: str) -> bool:
    return not fields or any(each.partition(".")[0] == name for each in fields)


def _logs(
    session: Session,
    ids: Sequence[UUID],
    read_lines: Callable[[Sequence[UUID]], Sequence[Row]],
    *,
    detailed: bool,
    fields: Sequence[str],
) -> list[Log]:
    selection = _DETAILED if detailed else _PLAIN
    rows = queries.values_of_runs(session, ids, selection)
    logs: list[Log] = [dict(zip(selection.values, row[1:], strict=True)) for row in rows]
    started = [run_id for run_id, log in zip(ids, logs, strict=True) if log["start"] is not None]
    if _includes(fields, "data"):
        _add_data(session, ids, logs, started)
    if _includes(fields, "phases"):
        _add_phases(session, ids, logs, read_lines(started))
    return [_project(log, fields) for log in logs]


def _add_data(
    session: Session, ids: Sequence[UUID], logs: Sequence[Log], started: Sequence[UUID]
) -> None:
    """Set `data` to the ids that each run wrote; None if it wrote none."""
    written = summaries.data_of_runs(session, started)
    for run_id, log in zip(ids, logs, strict=True):
        data = {kind: written[run_id].get(kind, {}) for kind in DATA} if run_id in written else {}
        log["data"] = data if any(data.values()) else None


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


def _line(line: Any) -> str:
    """`2021-07-01T16:30:13.390935800Z[UTC] info Completed EXTRACT`"""
    seconds, nanoseconds = divmod(line.time_ns, 1_000_000_000)
    moment = datetime.fromtimestamp(seconds, UTC)
    level = next((word for least, word in _LEVELS if line.level >= least), "debug")
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{nanoseconds:09}Z[UTC] {level} {line.text}"
