"""Keyset pages: an opaque cursor holds the position of a page's last row."""

import base64
import binascii
import json
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, TypeVar
from uuid import UUID

from marshmallow import Schema, fields

from orchestrator.errors import Invalid, Mistake

Row = TypeVar("Row")


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
    return Schema.from_dict(members, name=f"{name}Page")


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
