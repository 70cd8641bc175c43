"""JSON bodies: parsed once, and refused with the place of what is no JSON; answers in parts."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NoReturn

from flask import Request
from flask.json.provider import DefaultJSONProvider
from webargs.core import missing
from webargs.flaskparser import FlaskParser
from werkzeug.exceptions import BadRequest, RequestEntityTooLarge, UnsupportedMediaType

from orchestrator.json_values import load_json
from orchestrator.work_limits import in_turns

_LONG = 20  # objects of a list, which are then written one by one
_MAX_DEPTH = 3  # of objects in which there may be a long list
_MAX_VALUES = 400_000  # in one JSON body, the names of members included


class JsonProvider(DefaultJSONProvider):
    """Keeps what `find_unstorable` refuses in a body, and the order of members in an answer."""

    sort_keys = False

    def dumps(self, obj: Any, **options: Any) -> str:
        """The JSON of an answer; other requests run between the objects of a long list."""
        if "indent" in options or not _has_long_list(obj):
            return super().dumps(obj, **options)
        separators = options.get("separators") or (", ", ": ")
        return "".join(_parts(obj, partial(super().dumps, **options), *separators))

    def loads(self, s: str | bytes, **_: Any) -> Any:
        """The JSON of a body.

        Raises RequestEntityTooLarge for too many values, before it is parsed, and ValueError with
        the place of what is no JSON.
        """
        if _count_values(s.encode() if isinstance(s, str) else s) > _MAX_VALUES:
            raise RequestEntityTooLarge(f"a body of at most {_MAX_VALUES:,} JSON values is taken")
        return load_json(s)


def _has_long_list(value: Any, depth: int = _MAX_DEPTH) -> bool:
    if isinstance(value, list):
        return len(value) > _LONG and isinstance(value[0], dict)
    if not isinstance(value, dict) or not depth:
        return False
    return any(_has_long_list(each, depth - 1) for each in value.values())


def _parts(value: Any, dump: Callable[[Any], str], comma: str, colon: str) -> Iterator[str]:
    """The JSON of a value that has a long list."""
    if not _has_long_list(value):
        yield dump(value)
    elif isinstance(value, list):
        for place, each in enumerate(in_turns(value)):
            yield f"{comma if place else '['}{dump(each)}"
        yield "]"
    else:
        for place, (name, each) in enumerate(value.items()):
            yield f"{comma if place else '{'}{dump(str(name))}{colon}"
            yield from _parts(each, dump, comma, colon)
        yield "}"


def _count_values(body: bytes) -> int:
    """About the number of values in JSON: the signs that stand before one, outside of texts."""
    if (signs := _count_signs(body)) <= _MAX_VALUES:
        return signs
    unescaped = body.replace(b"\\\\", b"").replace(b'\\"', b"")
    quotes = unescaped.count(b'"')  # no sign stands before more than two
    if quotes > 2 * _MAX_VALUES + 2:
        return quotes
    return _count_signs(b" ".join(unescaped.split(b'"')[::2]))


def _count_signs(body: bytes) -> int:
    return sum(map(body.count, (b",", b"[", b"{", b":")))


class JsonRequest(Request):
    """A request that names the place in a body which is not JSON."""

    def on_json_loading_failed(self, e: ValueError | None) -> NoReturn:
        """Raises BadRequest with the place, UnsupportedMediaType for another content type."""
        if e is None:
            raise UnsupportedMediaType(
                "send JSON, with the header `Content-Type: application/json`"
            )
        error = BadRequest("the body is not JSON")
        error.data = {"messages": {"json": [f"not JSON: {e}"]}}  # type: ignore[attr-defined]
        raise error


class JsonParser(FlaskParser):
    """Takes the JSON that was parsed when the body was checked; webargs would parse it again."""

    def load_json(self, req: Any, schema: Any) -> Any:
        """The body, `missing` for an empty one and one of another content type."""
        return req.get_json() if req.is_json and req.get_data(cache=True) else missing
