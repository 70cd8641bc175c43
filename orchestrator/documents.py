"""JSON that Postgres will take: no NUL, no lone surrogate, no NaN, not too deep or too large."""

import json
import math
from typing import Any

from orchestrator.errors import Mistake

DEEPEST = 64
_LONGEST_TEXT = 10_000  # characters of an error's text
_LONGEST_INTEGER = 13_000  # bits; Python writes at most 4,300 digits
LARGEST_RESULT = 256 * 1024  # bytes of a step's result as JSON


def mistake_in(document: Any) -> Mistake | None:
    """Find the first value that JSON or Postgres would refuse; None when all is well."""
    waiting: list[tuple[str, Any, int]] = [("", document, 0)]
    while waiting:
        pointer, value, depth = waiting.pop()
        detail = _wrong(value, depth)
        if detail:
            return Mistake(pointer or "/", detail)
        if isinstance(value, dict):
            for key, each in value.items():
                if not isinstance(key, str) or _wrong_text(key):
                    return Mistake(pointer or "/", f"{key!r} is not a usable member name")
                waiting.append((f"{pointer}/{escape(key)}", each, depth + 1))
        elif isinstance(value, list | tuple):
            waiting += [(f"{pointer}/{at}", each, depth + 1) for at, each in enumerate(value)]
    return None


def escape(key: object) -> str:
    """One token of a JSON pointer (RFC 6901)."""
    return str(key).replace("~", "~0").replace("/", "~1")


def pointer_to(path: Any) -> str:
    """The JSON pointer (RFC 6901) of a path of keys and positions."""
    return "".join(f"/{escape(part)}" for part in path) or "/"


def result_mistake(result: Any) -> str | None:
    """Say why a step's result cannot be kept, or None."""
    mistake = mistake_in(result)
    if mistake:
        return f"the result is not JSON at {mistake.pointer}: {mistake.detail}"
    size = len(json.dumps(result, ensure_ascii=False).encode())
    if size > LARGEST_RESULT:
        return f"the result has {size:,} bytes as JSON; at most {LARGEST_RESULT:,} are kept"
    return None


def storable(text: str) -> str:
    """The text as Postgres takes it, cut where nobody would read on."""
    clean = text.replace("\x00", "\ufffd").encode("utf-8", "replace").decode()
    return clean if len(clean) <= _LONGEST_TEXT else f"{clean[:_LONGEST_TEXT]}…"


def _wrong(value: Any, depth: int) -> str | None:
    if depth > DEEPEST:
        return f"nested deeper than {DEEPEST} levels"
    if isinstance(value, str):
        return _wrong_text(value)
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN and infinity are not JSON"
    if isinstance(value, int) and value.bit_length() > _LONGEST_INTEGER:
        return "an integer this long cannot be written"
    if value is None or isinstance(value, bool | int | float | dict | list | tuple):
        return None
    return f"{type(value).__name__} is not JSON"


def _wrong_text(text: str) -> str | None:
    if "\x00" in text:
        return "the character U+0000 cannot be stored"
    try:
        text.encode()
    except UnicodeEncodeError:
        return "half a surrogate pair is not text"
    return None
