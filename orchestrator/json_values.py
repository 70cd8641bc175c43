"""JSON that Postgres accepts: no NUL, no lone surrogate, no NaN, not too deep or too large."""

import hashlib
import json
import math
import re
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

from orchestrator.errors import Mistake

MAX_DEPTH = 64
_MAX_TEXT = 10_000  # characters of an error's text
_MAX_INTEGER = 13_000  # bits; Python writes at most 4,300 digits
MAX_RESULT_IN_ROW = 256 * 1024  # bytes of a step's result as JSON; a larger one becomes an artifact
MAX_RESULT = 64 * 1024 * 1024
_TEXT_OR_POWER = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"|-?[0-9.]+e\+[0-9]+')


def fingerprint(document: Any) -> str:
    """A SHA-256 of the document, independent of the order of keys."""
    text = json.dumps(document, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def dump_json(document: Any, **options: Any) -> str:
    """The document as JSON from whose `jsonb` each float is read as a float again.

    Postgres would write 1e+308 without exponent and fraction: like an integer.
    """
    text = json.dumps(document, **options)
    return _TEXT_OR_POWER.sub(_write_out, text) if "e+" in text else text


def find_unstorable(document: Any) -> Mistake | None:
    """The first value that JSON or Postgres would refuse, or None.

    Memory grows with the depth, not with the number of values: a pointer is made for the mistake
    only. One for each value below a long name took gigabytes for a body of some hundred kilobytes.
    """
    path: list[Any] = []  # keys and positions
    levels: list[Iterator[tuple[Any, Any]]] = []
    value = document
    while True:
        if detail := _value_error(value, len(levels)):
            return Mistake(pointer_to(path), detail)
        if isinstance(value, dict | list | tuple):
            levels.append(iter(value.items()) if isinstance(value, dict) else enumerate(value))
            path.append(None)
        member = None
        while levels and (member := next(levels[-1], None)) is None:
            levels.pop()
            path.pop()
        if member is None:
            return None
        path[-1], value = member


def escape_pointer(key: object) -> str:
    """One token of a JSON pointer (RFC 6901)."""
    return str(key).replace("~", "~0").replace("/", "~1")


def pointer_to(path: Any) -> str:
    """The JSON pointer (RFC 6901) of a path of keys and positions."""
    return "".join(f"/{escape_pointer(part)}" for part in path) or "/"


def result_mistake(result: Any) -> str | None:
    """Why a step's result is not JSON, or None."""
    mistake = find_unstorable(result)
    if mistake is None:
        return None
    return f"the result is not JSON at {mistake.pointer}: {mistake.detail}"


def result_text(result: Any) -> str | None:
    """A step's result as JSON; None stays None."""
    return None if result is None else dump_json(result, ensure_ascii=False)


def result_excess(text: str, limit: int) -> str | None:
    """The error of a result whose JSON has more bytes than a limit, or None."""
    if len(text) * 4 <= limit or (size := len(text.encode())) <= limit:
        return None
    return f"the result has {size:,} bytes as JSON; at most {limit:,} are kept"


def clean_text(text: str) -> str:
    """The text as Postgres accepts it, cut after 10,000 characters."""
    return truncate_text(text, _MAX_TEXT)


def truncate_text(text: str, limit: int) -> str:
    """The text as Postgres accepts it, cut after so many characters."""
    if len(text) > limit:
        text = f"{text[:limit]}…"
    if text.isascii():
        return text.replace("\x00", "\ufffd")
    return text.replace("\x00", "\ufffd").encode("utf-8", "replace").decode()


def _write_out(match: re.Match[str]) -> str:
    """A power of ten with all its digits and a fraction; a text stays."""
    word = match[0]
    return word if word.startswith('"') else f"{Decimal(word):f}.0"


def _value_error(value: Any, depth: int) -> str | None:
    if depth > MAX_DEPTH:
        return f"nested deeper than {MAX_DEPTH} levels"
    if isinstance(value, str):
        return _text_error(value)
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN and infinity are not JSON"
    if isinstance(value, int) and value.bit_length() > _MAX_INTEGER:
        return "an integer this long cannot be written"
    if isinstance(value, dict):
        bad = (key for key in value if not isinstance(key, str) or _text_error(key))
        return next((f"{key!r} is not a usable member name" for key in bad), None)
    is_known = value is None or isinstance(value, bool | int | float | list | tuple)
    return None if is_known else f"{type(value).__name__} is not JSON"


def _text_error(text: str) -> str | None:
    if "\x00" in text:
        return "the character U+0000 cannot be stored"
    try:
        text.encode()
    except UnicodeEncodeError:
        return "half a surrogate pair is not text"
    return None
