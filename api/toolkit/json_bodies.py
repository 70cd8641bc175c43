"""JSON bodies: parsed once, and refused with the place of what is no JSON."""

from typing import Any, NoReturn

from flask import Request
from flask.json.provider import DefaultJSONProvider
from webargs.core import missing
from webargs.flaskparser import FlaskParser
from werkzeug.exceptions import BadRequest, UnsupportedMediaType

from orchestrator.json_values import load_json


class JsonProvider(DefaultJSONProvider):
    """Keeps what `find_unstorable` refuses in a body, and the order of members in an answer."""

    sort_keys = False

    def loads(self, s: str | bytes, **_: Any) -> Any:
        """The JSON of a body. Raises ValueError with the place."""
        return load_json(s)


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
