"""Pages of lists: by an opaque cursor, which holds the position of a page's last row, or by offset.

An offset counts rows, and each row that is inserted meanwhile would shift the pages after it by
one. So a page that follows the last one of the same client goes on after the last row of that.
"""

import base64
import binascii
import hashlib
import json
import time
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, NamedTuple, TypeVar
from uuid import UUID

from flask import current_app, request
from marshmallow import Schema, fields

from api.toolkit.context import caller
from api.toolkit.wire import WireSchema
from orchestrator.errors import Invalid, Mistake

Row = TypeVar("Row")
Position = Sequence[Any]  # the values that the order of a list compares

_MAX_AGE = 600.0  # seconds after which an offset counts rows again
_MAX_LISTS = 10_000  # whose last page is known; the oldest are forgotten
_EXTENSION = "last_pages"  # of a Flask application


class _Page(NamedTuple):
    """The last page that a client read of a list."""

    offset: int
    after: Position | None  # where it began
    rows: int
    limit: int
    end: Position | None
    total: int | None  # of the list when its first page was read
    at: float  # of the monotonic clock


class OffsetPage:
    """A page by its offset: after a position if it follows the last page, else after `skip` rows.

    `total` is that of the first page then. The last page is known per caller, client and list,
    which is the request's path and what `which` says of it; each API process knows its own.
    """

    def __init__(self, offset: int, limit: int, *which: Any) -> None:
        who = caller().tenant_id, caller().key_id, request.remote_addr, request.user_agent.string
        text = repr((who, request.path, which)).encode(errors="surrogatepass")
        self._list = hashlib.blake2b(text, digest_size=16).digest()
        self._offset, self._limit = offset, limit
        self.after, self.total = self._start(self._last_pages.get(self._list))
        self.skip = offset if self.after is None else 0

    def _start(self, last: _Page | None) -> tuple[Position | None, int | None]:
        """Where the page begins, and the total; None if neither follows from the last page."""
        if last is None or self._offset == 0 or time.monotonic() - last.at > _MAX_AGE:
            return None, None
        if self._offset == last.offset and last.after is not None:  # the same one again
            return last.after, last.total
        # A client that steps by the limit skips what a short page lacks.
        follows = last.offset + last.rows <= self._offset <= last.offset + last.limit
        return (last.end, last.total) if follows and last.end is not None else (None, None)

    def end(self, positions: Sequence[Position], total: int | None = None) -> None:
        """Remember where the page ends: the positions are those of its rows."""
        end = positions[-1] if positions else self.after
        page = _Page(
            self._offset, self.after, len(positions), self._limit, end, total, time.monotonic()
        )
        self._last_pages.pop(self._list, None)  # the newest stands last
        self._last_pages[self._list] = page
        while len(self._last_pages) > _MAX_LISTS:
            del self._last_pages[next(iter(self._last_pages))]

    @property
    def _last_pages(self) -> dict[bytes, _Page]:
        pages: dict[bytes, _Page] = current_app.extensions.setdefault(_EXTENSION, {})
        return pages


def encode(*position: Any) -> str:
    """A cursor for a position: the values that the page's order compares."""
    return base64.urlsafe_b64encode(json.dumps(position, default=str).encode()).decode().rstrip("=")


@cache
def page_of(schema: type[Schema]) -> type[Schema]:
    """The schema of a page of rows: of `RunSummarySchema` it is `RunPage`."""
    name = schema.__name__.removesuffix("Schema").removesuffix("Summary")
    members: dict[str, fields.Field[Any]] = {
        "items": fields.List(fields.Nested(schema)),
        "next_cursor": fields.String(allow_none=True),
    }
    return WireSchema.from_dict(members, name=f"{name}Page")


def page(
    rows: Sequence[Row], limit: int, position: Callable[[Row], tuple[Any, ...]]
) -> dict[str, Any]:
    """A page of rows that were selected with `LIMIT limit + 1`; `position` gives a row's."""
    more = encode(*position(rows[limit - 1])) if len(rows) > limit else None
    return {"items": list(rows[:limit]), "next_cursor": more}


def decode(cursor: str | None, *kinds: type) -> tuple[Any, ...] | None:
    """The position in a cursor, None without one. Raises Invalid for a forged or changed cursor."""
    if cursor is None:
        return None
    try:
        padded = cursor.encode() + b"=" * (-len(cursor) % 4)
        values = json.loads(base64.b64decode(padded, altchars=b"-_", validate=True))
        if not isinstance(values, list) or len(values) != len(kinds):
            raise ValueError(cursor)
        position = tuple(_read(value, kind) for value, kind in zip(values, kinds, strict=True))
        if encode(*position) != cursor:  # another spelling of the same position
            raise ValueError(cursor)
        return position
    except (ValueError, TypeError, binascii.Error, RecursionError):
        mistake = Mistake("/query/cursor", "use `next_cursor` of the page before, unchanged")
        raise Invalid("the cursor is not one of ours", mistake) from None


def _read(value: Any, kind: type) -> Any:
    if kind is UUID and isinstance(value, str):
        return UUID(value)
    is_too_large = isinstance(value, int) and not -(2**63) <= value < 2**63
    has_nul = isinstance(value, str) and b"\x00" in value.encode()
    if not isinstance(value, kind) or isinstance(value, bool) or is_too_large or has_nul:
        raise ValueError(value)
    return value
