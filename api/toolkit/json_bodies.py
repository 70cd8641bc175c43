"""JSON bodies: parsed once, and refused with the place of what is no JSON."""

from typing import Any, NoReturn

from flask import Request
from flask.json.provider import DefaultJSONProvider
from webargs.core import missing
from webargs.flaskparser import FlaskParser
from werkzeug.exceptions import BadRequest, RequestEntityTooLarge, UnsupportedMediaType

from orchestrator.json_values import load_json

_MAX_VALUES = 400_000  # in one JSON body, the names of members included


class JsonProvider(DefaultJSONProvider):
    """Keeps what `find_unstorable` refuses in a body, and the order of members in an answer."""

    sort_keys = False

    def loads(self, s: str | bytes, **_: Any) -> Any:
        """The JSON of a body.

        Raises RequestEntityTooLarge for too many values, before it is parsed, and ValueError with
        the place of what is no JSON.
        """
        if _count_values(s.encode() if isinstance(s, str) else s) > _MAX_VALUES:
            raise RequestEntityTooLarge(f"a body of at most {_MAX_VALUES:,} JSON values is taken")
        return load_json(s)


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
