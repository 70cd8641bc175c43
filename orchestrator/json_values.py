"""JSON that Postgres accepts: no NUL, no lone surrogate, no NaN, not too deep or too large."""

import hashlib
import itertools
import json
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Any

from orchestrator.errors import Mistake
from orchestrator.work_limits import take_step

MAX_DEPTH = 64
_MAX_TEXT = 10_000  # characters of an error's text
_STEP = 256  # values; a step for each would take a third of the time
_MAX_INTEGER = 13_000  # bits; Python writes at most 4,300 digits
_MAX_DIGITS = 4_300  # that Python reads
# What Python before 3.13 says where an object or array ends after a comma.
_BEFORE_END = {"}": ("Expecting property name", "object"), "]": ("Expecting value", "array")}
MAX_RESULT_IN_ROW = 256 * 1024  # bytes of a step's result as JSON; a larger one becomes an artifact
MAX_RESULT = 64 * 1024 * 1024
_TEXT_OR_POWER = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"|(?<![0-9.])-?[0-9.]++e\+[0-9]+')


class RepeatedMember(dict[str, Any]):
    """An object that was written with a member twice; the last value is kept."""

    def __init__(self, members: list[tuple[str, Any]]) -> None:
        super().__init__(members)
        ((self.name, _),) = Counter(name for name, _ in members).most_common(1)


def _object(members: list[tuple[str, Any]]) -> dict[str, Any]:
    document = dict(members)
    return document if len(document) == len(members) else RepeatedMember(members)


def _integer(digits: str) -> int:
    """An integer; one too long to be read is one that `find_unstorable` refuses."""
    return int(digits) if len(digits) <= _MAX_DIGITS else 1 << (_MAX_INTEGER + 1)


_READER = json.JSONDecoder(object_pairs_hook=_object)
_LENIENT_READER = json.JSONDecoder(object_pairs_hook=_object, parse_int=_integer)


def load_json(written: bytes | str) -> Any:
    """The JSON of a text in UTF-8, with all that `find_unstorable` has a pointer for.

    Raises ValueError with the place of what is not JSON.
    """
    text = written if isinstance(written, str) else _decode(written)
    try:
        return _READER.decode(text)
    except json.JSONDecodeError as raised:
        error = same_error(raised)
        raise ValueError(f"line {error.lineno}, column {error.colno}: {error.msg}") from None
    except ValueError:  # an integer too long for Python
        return _LENIENT_READER.decode(text)


def same_error(error: json.JSONDecodeError) -> json.JSONDecodeError:
    """The error as Python 3.13 words it: earlier ones do not tell of a comma before the end."""
    before = error.doc[: error.pos].rstrip(" \t\r\n")
    start, kind = _BEFORE_END.get(error.doc[error.pos : error.pos + 1], ("", ""))
    if not (kind and before.endswith(",") and error.msg.startswith(start)):
        return error
    message = f"Illegal trailing comma before end of {kind}"
    return json.JSONDecodeError(message, error.doc, len(before) - 1)


def _decode(data: bytes) -> str:
    encoding = json.detect_encoding(data)
    start = "line 1, column 1: "
    if data.startswith(b"\x1f\x8b"):
        raise ValueError(f"{start}compressed with gzip; send it uncompressed")
    if encoding == "utf-8-sig":
        raise ValueError(f"{start}a byte order mark; send UTF-8 without it")
    if encoding != "utf-8":
        raise ValueError(f"{start}encoded in {encoding.upper()}; send UTF-8")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        lines = data[: error.start].decode().split("\n")
        place = f"line {len(lines)}, column {len(lines[-1]) + 1}"
        raise ValueError(f"{place}: a byte that is not UTF-8") from None


def fingerprint(document: Any) -> str:
    """A SHA-256 of the document, independent of the order of keys."""
    text = json.dumps(document, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def dump_json(document: Any, **options: Any) -> str:
    """The document as JSON from whose `jsonb` each float is read as a float again.

    Postgres would write 1e+308 without exponent and fraction: like an integer.
    """
    take_step()
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
    for count in itertools.count():
        if not count % _STEP:
            take_step()
        if detail := _value_error(value, len(levels)):
            return Mistake(pointer_to(path), detail)
        if isinstance(value, RepeatedMember):
            return Mistake(pointer_to([*path, value.name]), "this member is there twice")
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
        is_position = isinstance(levels[-1], enumerate)
        if not is_position and (detail := _name_error(path[-1])):
            return Mistake(pointer_to(path[:-1]), detail)
    return None


def count_values(document: Any) -> int:
    """The number of values in a JSON value, itself and the names of members included."""
    count, pending = 0, [document]
    while pending:
        take_step()
        value = pending.pop()
        count += 1
        if isinstance(value, Mapping):
            count += len(value)
            pending += value.values()
        elif isinstance(value, list | tuple):
            pending += value
    return count


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
    is_known = value is None or isinstance(value, bool | int | float | dict | list | tuple)
    return None if is_known else f"{type(value).__name__} is not JSON"


def _name_error(name: Any) -> str | None:
    is_usable = isinstance(name, str) and _text_error(name) is None
    return None if is_usable else f"{name!r} is not a usable member name"


def _text_error(text: str) -> str | None:
    if "\x00" in text:
        return "the character U+0000 cannot be stored"
    try:
        text.encode()
    except UnicodeEncodeError:
        return "half a surrogate pair is not text"
    return None
