"""Runs as the execution logs of processes."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from sqlalchemy.orm import Session

from api.contracts.opendatadsl.words import DATA, DETAILED_STATUS, PHASE, PHASE_SHOWS, RUN
from orchestrator import outputs, searching, summaries
from orchestrator.conditions import Condition, Field, Value, all_of, one_of
from orchestrator.models import Run
from orchestrator.searching import Order

Log = dict[str, Any]

LINES_OF_PHASE = 1000  # in one log
LINES_OF_RUN, LINES_OF_LIST = 50, 5000  # in a list of them
_LEVELS = ((50, "fatal"), (40, "error"), (30, "warning"), (20, "info"))
# As the log has them: what it says of the run, its phases, and what it wrote.
_ORDER = (
    "_id", "service", "name", "environment", "trigger", "reason", "triggerTime", "start", "end",
    "runAs", "status", "message", "phases", "data", "parentId",
)  # fmt: skip


def logs(
    session: Session,
    tenant_id: UUID,
    condition: Condition,
    order: Sequence[Order],
    *,
    limit: int,
    offset: int = 0,
    detailed: bool = False,
    fields: Sequence[str] = (),
) -> list[Log]:
    """Execution logs, whole or with some fields, and with the last lines of what they said."""
    rows = searching.page(
        session, tenant_id, condition, order, _shown(detailed), limit=limit, offset=offset
    )
    runs = [row[0] for row in rows]
    found = [_of_row(row._mapping) for row in rows]
    if _wants(fields, "data"):
        _add_data(session, runs, found)
    if _wants(fields, "phases"):
        lines = min(LINES_OF_RUN, LINES_OF_LIST // max(1, len(runs)))
        told = outputs.ends(session, [run.id for run in runs], lines) if lines else ()
        _add_phases(session, runs, found, told)
    return [projected(log, fields) for log in found]


def log(
    session: Session,
    tenant_id: UUID,
    run_id: UUID,
    *,
    detailed: bool = False,
    fields: Sequence[str] = (),
) -> Log | None:
    """One execution log with all that its phases said; None when there is none of this id."""
    condition = one_of(Field("id"), [run_id])
    rows = searching.page(session, tenant_id, condition, (), _shown(detailed), limit=1)
    if not rows:
        return None
    runs, found = [rows[0][0]], [_of_row(rows[0]._mapping)]
    _add_data(session, runs, found)
    _add_phases(session, runs, found, outputs.ends_of_steps(session, run_id, LINES_OF_PHASE))
    return projected(found[0], fields)


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


def _shown(detailed: bool) -> Mapping[str, Value]:
    shown = {name: wire.time or wire.text for name, wire in RUN.items()}
    return {**shown, "status": DETAILED_STATUS} if detailed else shown


def _of_row(row: Mapping[Any, Any]) -> Log:
    return {name: _plain(row[name]) for name in RUN}


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return instant(value)
    return str(value) if isinstance(value, UUID) else value


def _add_data(session: Session, runs: Sequence[Run], found: Sequence[Log]) -> None:
    """The ids that runs wrote; no member where nothing was written."""
    said = summaries.of_runs(session, runs)
    for run, log in zip(runs, found, strict=True):
        data = {kind: said[run.id].data.get(kind, {}) for kind in DATA}
        log["data"] = data if any(data.values()) else None


def _add_phases(
    session: Session, runs: Sequence[Run], found: Sequence[Log], told: Iterable[Any]
) -> None:
    shown = {name: wire.time or wire.text for name, wire in PHASE.items()}
    steps = searching.steps(
        session, [run.id for run in runs], all_of(PHASE_SHOWS), {"key": Field("key"), **shown}
    )
    lines: dict[tuple[UUID, str], list[str]] = {}
    for line in told:
        lines.setdefault((line.run_id, line.step), []).append(_line(line))
    for run, log in zip(runs, found, strict=True):
        log["phases"] = [
            _phase(step._mapping, lines.get((run.id, step.key), [])) for step in steps[run.id]
        ]


def _phase(row: Mapping[Any, Any], lines: list[str]) -> Log:
    values = {name: _plain(row[name]) for name in PHASE}
    return {name: value for name, value in values.items() if value is not None} | {"log": lines}


def _line(line: Any) -> str:
    """`2021-07-01T16:30:13.390935800Z[UTC] info Completed EXTRACT`"""
    seconds, nanoseconds = divmod(line.time_ns, 1_000_000_000)
    moment = datetime.fromtimestamp(seconds, UTC)
    level = next((word for least, word in _LEVELS if line.level >= least), "debug")
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{nanoseconds:09}Z[UTC] {level} {line.text}"
