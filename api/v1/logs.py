"""`/api/v1/runs/{id}/logs`: the log lines and printed output of a run's steps."""

import logging
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from flask import Response, request
from marshmallow import RAISE, ValidationError, fields, validate

from api.capacity import gate
from api.capacity.gate import Ticket
from api.toolkit import paging
from api.toolkit.blueprints import Blueprint
from api.toolkit.context import services, tenant, transaction
from api.toolkit.fields import StrictSchema, Timestamp
from api.toolkit.wire import WireSchema, computed
from orchestrator import runs
from orchestrator.db.database import Database
from orchestrator.errors import Invalid, Mistake
from orchestrator.models import LogLine
from orchestrator.outputs import logs
from orchestrator.outputs.logs import LogFilter

LEVELS = ("debug", "info", "warning", "error", "critical")
_DEFAULT_LIMIT, _BATCH = 200, 1000  # lines of a JSON page; lines per SELECT of a text stream
_BEGINNING = (0, 0)

blueprint = Blueprint("outputs", __name__, description="Logs of runs")


class Level(fields.Field[int]):
    """`debug`, `info`, `warning`, `error` or `critical`."""

    def _deserialize(self, value: Any, *_: Any, **__: Any) -> int:
        if not isinstance(value, str) or value.lower() not in LEVELS:
            raise ValidationError(f"one of {', '.join(LEVELS)}")
        return (LEVELS.index(value.lower()) + 1) * 10


class LogQuery(StrictSchema):
    """Filters of log lines: `level` is the lowest one, `tail` the number of last lines."""

    level = Level(metadata={"enum": LEVELS})
    step = fields.String()
    attempt = fields.Integer(validate=validate.Range(1, 2**31 - 1))
    since = Timestamp()
    until = Timestamp()
    cursor = fields.String()
    limit = fields.Integer(validate=validate.Range(1, 1000))
    tail = fields.Integer(validate=validate.Range(1, 1000))
    format = fields.String(validate=validate.OneOf(["json", "text"]))


def _time(line: LogLine) -> str:
    seconds, rest = divmod(line.time_ns, 1_000_000_000)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{rest:09d}Z"


def _level(line: LogLine) -> str:
    return LEVELS[max(0, min(line.level // 10 - 1, len(LEVELS) - 1))]


class LogLineSchema(WireSchema):
    """One line of a log."""

    time = computed(fields.String, _time, "RFC 3339 with all nine digits of a second")
    level = computed(fields.String, _level, validate=validate.OneOf(LEVELS))
    step = fields.String()
    attempt = fields.Integer()
    text = fields.String()


class LogPage(WireSchema):
    """One page of a log; `truncated` when an attempt wrote more lines than are stored."""

    items = fields.List(fields.Nested(LogLineSchema))
    truncated = fields.Boolean()
    next_cursor = fields.String(allow_none=True)


@blueprint.route("/runs/<uuid:run_id>/logs")
@blueprint.arguments(LogQuery, location="query", unknown=RAISE)
@blueprint.response(200, LogPage)
@blueprint.alt_response(200, schema={"type": "string"}, content_type="text/plain", success=True)
def log(query: dict[str, Any], run_id: UUID) -> Any:
    """Read the log of a run

    As JSON in pages, or as text with `Accept: text/plain` or `format=text`: all of it, unless
    `limit` or `tail` is given.
    """
    after = paging.decode(query.pop("cursor", None), int, int)
    limit, tail = query.pop("limit", None), query.pop("tail", None)
    as_text = _wants_text(query.pop("format", None))
    line_filter = LogFilter(**query)
    if tail and (limit or after):
        mistake = Mistake("/query/tail", "give `tail` without `limit` and `cursor`")
        raise Invalid("the last lines are not a page", mistake)
    with transaction() as session:
        runs.get(session, tenant(), run_id)
        truncated = logs.is_truncated(session, tenant(), run_id, line_filter)
        last = logs.log_tail(session, tenant(), run_id, line_filter, tail) if tail else None
    after = after or _BEGINNING
    if as_text:
        lines = _all_lines(
            gate.current(), services().database, tenant(), run_id, line_filter, after, limit
        )
        return _text_response(lines if last is None else last, truncated)
    if last is not None:
        return {"items": last, "truncated": truncated, "next_cursor": None}
    limit = limit or _DEFAULT_LIMIT
    with transaction() as session:
        rows = logs.log_lines(session, tenant(), run_id, line_filter, after=after, limit=limit + 1)
    page = paging.page(rows, limit, lambda row: (row.time_ns, row.id))
    return page | {"truncated": truncated}


def _wants_text(format_: str | None) -> bool:
    if format_ is not None:
        return format_ == "text"
    types = ["application/json", "text/plain"]
    return request.accept_mimetypes.best_match(types) == "text/plain"


def _all_lines(
    ticket: Ticket,
    database: Database,
    tenant_id: UUID,
    run_id: UUID,
    line_filter: LogFilter,
    after: tuple[Any, ...],
    limit: int | None,
) -> Iterator[LogLine]:
    """All lines, one transaction per batch: a slow client keeps no transaction open."""
    while limit is None or limit > 0:
        size = _BATCH if limit is None else min(limit, _BATCH)
        with ticket.turn(), database.transaction(tenant_id) as session:
            rows = logs.log_lines(session, tenant_id, run_id, line_filter, after=after, limit=size)
        yield from rows
        if len(rows) < size:
            return
        after = (rows[-1].time_ns, rows[-1].id)
        limit = None if limit is None else limit - len(rows)


def _text_response(lines: Iterable[LogLine], truncated: bool) -> Response:
    leave = gate.current().hold_stream()
    response = Response(map(_text_line, lines), content_type="text/plain; charset=utf-8")
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.call_on_close(leave)
    response.headers["Log-Truncated"] = "true" if truncated else "false"
    return response


def _text_line(line: LogLine) -> str:
    level = logging.getLevelName(line.level - line.level % 10)
    return f"{_time(line)} {level:<8} {line.step}#{line.attempt} {line.text}\n"
