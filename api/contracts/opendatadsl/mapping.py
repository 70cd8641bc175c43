"""Runs as the execution logs of processes."""

from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from sqlalchemy.orm import Session

from api.contracts.opendatadsl.vocabulary import DATA, DETAILED_STATUS, PHASE, PHASE_SHOWS, RUN
from orchestrator.db import Row
from orchestrator.outputs import summaries
from orchestrator.outputs.logs import log_ends, log_ends_of_steps
from orchestrator.search import queries
from orchestrator.search.conditions import Condition, Field, one_of
from orchestrator.search.queries import FieldSelection, SearchOrder

Log = dict[str, Any]

LINES_OF_PHASE = 1000  # in one log
LINES_OF_RUN, LINES_OF_LIST = 50, 5000  # in a list of them
_LEVELS = ((50, "fatal"), (40, "error"), (30, "warning"), (20, "info"))
# As the log has them: what it says of the run, its phases, and what it wrote.
_ORDER = (
    "_id", "service", "name", "environment", "trigger", "reason", "triggerTime", "start", "end",
    "runAs", "status", "message", "phases", "data", "parentId",
)  # fmt: skip
_PLAIN = FieldSelection({name: wire.text for name, wire in RUN.items()})
_DETAILED = FieldSelection({**_PLAIN.values, "status": DETAILED_STATUS})
_PHASE = FieldSelection({name: wire.text for name, wire in PHASE.items()}, PHASE_SHOWS)


def logs(
    session: Session,
    tenant_id: UUID,
    condition: Condition,
    order: Sequence[SearchOrder],
    *,
    limit: int,
    offset: int = 0,
    detailed: bool = False,
    fields: Sequence[str] = (),
) -> list[Log]:
    """Execution logs, whole or with some fields, and with the last lines of what they said."""
    ids = queries.page_of_runs(session, tenant_id, condition, order, limit=limit, offset=offset)
    lines = min(LINES_OF_RUN, LINES_OF_LIST // max(1, len(ids)))

    def told(began: Sequence[UUID]) -> Sequence[Row]:
        return log_ends(session, began, lines) if lines and began else ()

    return _logs(session, ids, told, detailed=detailed, fields=fields)


def log(
    session: Session,
    tenant_id: UUID,
    run_id: UUID,
    *,
    detailed: bool = False,
    fields: Sequence[str] = (),
) -> Log | None:
    """One execution log with all that its phases said; None when there is none of this id."""
    ids = queries.page_of_runs(session, tenant_id, one_of(Field("id"), [run_id]), (), limit=1)

    def told(_: Sequence[UUID]) -> Sequence[Row]:
        return log_ends_of_steps(session, run_id, LINES_OF_PHASE)

    return next(iter(_logs(session, ids, told, detailed=detailed, fields=fields)), None)


def instant(moment: datetime | None) -> str | None:
    """In UTC, with milliseconds."""
    if moment is None:
        return None
    return f"{moment.astimezone(UTC):%Y-%m-%dT%H:%M:%S}.{moment.microsecond // 1000:03}Z"


def projected(log: Log, fields: Sequence[str]) -> Log:
    """The log in its order with these fields, and always its id; what is missing is left out."""
    wanted = {"_id", *fields}
    whole = {name: log[name] for name in _ORDER if log.get(name) is not None}
    if not fields:
        return whole
    heads = {name.partition(".")[0] for name in wanted}
    return {
        name: value if name in wanted else _inner(value, name, wanted)
        for name, value in whole.items()
        if name in heads
    }


def _inner(value: Any, name: str, wanted: Iterable[str]) -> Any:
    """The members of a document that dotted names want."""
    inner = {each.partition(".")[2] for each in wanted if each.startswith(f"{name}.")}
    if isinstance(value, list):
        return [_inner_members(each, inner) for each in value]
    return _inner_members(value, inner)


def _inner_members(value: Any, inner: Iterable[str]) -> Any:
    if not isinstance(value, dict):
        return value
    heads = {each.partition(".")[0] for each in inner}
    return {name: each for name, each in value.items() if name in heads}


def _wants(fields: Sequence[str], name: str) -> bool:
    return not fields or any(each.partition(".")[0] == name for each in fields)


def _logs(
    session: Session,
    ids: Sequence[UUID],
    told: Callable[[Sequence[UUID]], Sequence[Row]],
    *,
    detailed: bool,
    fields: Sequence[str],
) -> list[Log]:
    shown = _DETAILED if detailed else _PLAIN
    rows = queries.distinct_values(session, ids, shown)
    found: list[Log] = [dict(zip(shown.values, row[1:], strict=True)) for row in rows]
    began = [run_id for run_id, log in zip(ids, found, strict=True) if log["start"] is not None]
    if _wants(fields, "data"):
        _add_data(session, ids, found, began)
    if _wants(fields, "phases"):
        _add_phases(session, ids, found, told(began))
    return [projected(log, fields) for log in found]


def _add_data(
    session: Session, ids: Sequence[UUID], found: Sequence[Log], began: Sequence[UUID]
) -> None:
    """The ids that runs wrote; no member where nothing was written."""
    written = summaries.data_of_runs(session, began)
    for run_id, log in zip(ids, found, strict=True):
        data = {kind: written[run_id].get(kind, {}) for kind in DATA} if run_id in written else {}
        log["data"] = data if any(data.values()) else None


def _add_phases(
    session: Session, ids: Sequence[UUID], found: Sequence[Log], told: Sequence[Row]
) -> None:
    lines: dict[tuple[UUID, str], list[str]] = {}
    for line in told:
        lines.setdefault((line.run_id, line.step), []).append(_line(line))
    for log in found:
        log["phases"] = []
    for row in queries.steps_of_runs(session, ids, _PHASE):
        said: Log = dict(zip(_PHASE.values, row[1:], strict=True))
        phase = {name: value for name, value in said.items() if value is not None}
        phase["log"] = lines.get((ids[row.place - 1], phase["name"]), [])
        found[row.place - 1]["phases"].append(phase)


def _line(line: Any) -> str:
    """`2021-07-01T16:30:13.390935800Z[UTC] info Completed EXTRACT`"""
    seconds, nanoseconds = divmod(line.time_ns, 1_000_000_000)
    moment = datetime.fromtimestamp(seconds, UTC)
    level = next((word for least, word in _LEVELS if line.level >= least), "debug")
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{nanoseconds:09}Z[UTC] {level} {line.text}"
