"""`/api/v1/runs/{id}/logs`: what the steps of a run logged and printed."""

import logging
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from flask import Response, request
from marshmallow import RAISE, Schema, ValidationError, fields, validate

from api.toolkit import paging
from api.toolkit.blueprints import Blueprint
from api.toolkit.context import services, tenant, transaction
from api.toolkit.fields import ResponseSchema, Timestamp
from api.toolkit.requests import StrictSchema
from orchestrator import runs
from orchestrator.db.database import Database
from orchestrator.errors import Invalid, Mistake
from orchestrator.models import LogLine
from orchestrator.outputs import logs
from orchestrator.outputs.logs import LogFilter

LEVELS = ("debug", "info", "warning", "error", "critical")
_LINES, _PAGE = 200, 1000  # lines of a page by default, and that a stream of text reads at once
_START = (0, 0)

blueprint = Blueprint("outputs", __name__, url_prefix="/api/v1", description="Logs of runs")


class Level(fields.Field[int]):
    """`debug`, `info`, `warning`, `error` or `critical`."""

    def _deserialize(self, value: Any, *_: Any, **__: Any) -> int:
        if not isinstance(value, str) or value.lower() not in LEVELS:
            raise ValidationError(f"one of {', '.join(LEVELS)}")
        return (LEVELS.index(value.lower()) + 1) * 10


class LogAsked(StrictSchema):
    """Which lines of a log; `level` means this one and above, `tail` the last so many."""

    level = Level(metadata={"enum": LEVELS})
    step = fields.String()
    attempt = fields.Integer(validate=validate.Range(1, 2**31 - 1))
    since = Timestamp()
    until = Timestamp()
    cursor = fields.String()
    limit = fields.Integer(validate=validate.Range(1, 1000))
    tail = fields.Integer(validate=validate.Range(1, 1000))
    format = fields.String(validate=validate.OneOf(["json", "text"]))


class LineShown(ResponseSchema):
    """One line of a log."""

    time = fields.String(metadata={"description": "RFC 3339 with all nine digits of a second"})
    level = fields.String(validate=validate.OneOf(LEVELS))
    step = fields.String()
    attempt = fields.Integer()
    text = fields.String()

    def _one(self, row: LogLine) -> dict[str, Any]:
        return {
            "time": _time(row.time_ns),
            "level": LEVELS[max(0, min(row.level // 10 - 1, len(LEVELS) - 1))],
            "step": row.step,
            "attempt": row.attempt,
            "text": row.text,
        }


class LogPage(Schema):
    """One page of a log; `truncated` says that an attempt said more than is kept."""

    items = fields.List(fields.Nested(LineShown))
    truncated = fields.Boolean()
    next_cursor = fields.String(allow_none=True)


@blueprint.route("/runs/<uuid:run_id>/logs")
@blueprint.arguments(LogAsked, location="query", unknown=RAISE)
@blueprint.response(200, LogPage)
def log(query: dict[str, Any], run_id: UUID) -> Any:
    """Read the log of a run

    As JSON in pages, or as text when asked for by `Accept: text/plain` or `format=text`: then all
    of it unless `limit` or `tail` says less.
    """
    after = paging.decode(query.pop("cursor", None), int, int)
    limit, tail = query.pop("limit", None), query.pop("tail", None)
    as_text = _wants_text(query.pop("format", None))
    which = LogFilter(**query)
    if tail and (limit or after):
        mistake = Mistake("/query/tail", "give `tail` without `limit` and `cursor`")
        raise Invalid("the last lines are not a page", mistake)
    with transaction() as session:
        runs.get(session, tenant(), run_id)
        truncated = logs.is_truncated(session, tenant(), run_id, which)
        last = logs.log_tail(session, tenant(), run_id, which, tail) if tail else None
    if as_text:
        every = _every(services().database, tenant(), run_id, which, after or _START, limit)
        return _text(every if last is None else iter(last), truncated)
    if last is not None:
        return {"items": last, "truncated": truncated, "next_cursor": None}
    return _log_page(run_id, which, after or _START, limit or _LINES) | {"truncated": truncated}


def _wants_text(asked: str | None) -> bool:
    if asked is not None:
        return asked == "text"
    types = ["application/json", "text/plain"]
    return request.accept_mimetypes.best_match(types, default=types[0]) == "text/plain"


def _log_page(run_id: UUID, which: LogFilter, after: tuple[Any, ...], limit: int) -> dict[str, Any]:
    with transaction() as session:
        found = logs.log_lines(session, tenant(), run_id, which, after=after, limit=limit + 1)
    last = found[limit - 1] if len(found) > limit else None
    more = paging.encode(last.time_ns, last.id) if last else None
    return {"items": found[:limit], "next_cursor": more}


def _every(
    database: Database,
    owner: UUID,
    run_id: UUID,
    which: LogFilter,
    after: tuple[Any, ...],
    limit: int | None,
) -> Iterator[LogLine]:
    """All lines, a page and a transaction at a time: a slow reader holds nothing up."""
    time_ns, line_id = after
    while limit is None or limit > 0:
        size = _PAGE if limit is None else min(limit, _PAGE)
        with database.transaction(owner) as session:
            found = logs.log_lines(
                session, owner, run_id, which, after=(time_ns, line_id), limit=size
            )
        yield from found
        if len(found) < size:
            return
        time_ns, line_id = found[-1].time_ns, found[-1].id
        limit = None if limit is None else limit - len(found)


def _text(lines: Iterator[LogLine], truncated: bool) -> Response:
    written = (_line(line) for line in lines)
    answer = Response(written, content_type="text/plain; charset=utf-8")
    answer.headers["X-Content-Type-Options"] = "nosniff"
    answer.headers["Log-Truncated"] = "true" if truncated else "false"
    return answer


def _line(line: LogLine) -> str:
    level = logging.getLevelName(line.level - line.level % 10)
    return f"{_time(line.time_ns)} {level:<8} {line.step}#{line.attempt} {line.text}\n"


def _time(time_ns: int) -> str:
    seconds, rest = divmod(time_ns, 1_000_000_000)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{rest:09d}Z"
