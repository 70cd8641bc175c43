"""The answers to requests that get no turn: refusing must cost little, or it delays the others."""

from collections.abc import Sequence
from typing import Any

from flask import Flask, Response, g

from api import contracts as published
from api import oauth
from api.capacity.gate import Application, Environ, Refusal
from api.toolkit.context import id_of_request
from api.toolkit.surface import Contract, is_below

_ID = "X-Request-Id"


class Refusals:
    """Renders refusals in the format of the API that owns the address.

    Those of the native API differ in nothing but the request's id, and are rendered once.
    """

    def __init__(self, app: Flask, contracts: Sequence[Contract]) -> None:
        self._app, self._contracts = app, contracts
        self._answers: dict[str, Application] = {}

    def __call__(self, environ: Environ, error: Refusal) -> Application:
        """The answer, as a WSGI application."""
        if not self._is_plain(environ):
            return self._render(environ, error)
        text = str(error)
        if text not in self._answers:
            self._answers[text] = _Answer(self._render(environ, error), environ)
        return self._answers[text]

    def _is_plain(self, environ: Environ) -> bool:
        path = "/" + environ["PATH_INFO"].lstrip("/")
        special = environ["REQUEST_METHOD"] == "HEAD" or "HTTP_ORIGIN" in environ
        owned = oauth.owns(path) or any(each.owns(path) for each in self._contracts)
        return is_below(path, "/api/v1") and not special and not owned

    def _render(self, environ: Environ, error: Refusal) -> Response:
        with self._app.request_context(environ):
            g.contract = published.owner(self._contracts)
            response = self._app.handle_user_exception(error)
            return self._app.finalize_request(response, from_error_handler=True)


class _Answer:
    """A response that is kept, without its request's id."""

    def __init__(self, response: Response, environ: Environ) -> None:
        headers = response.get_wsgi_headers(environ)
        self._status, self._body = response.status, [response.get_data()]
        self._headers = [(name, value) for name, value in headers if name != _ID]

    def __call__(self, environ: Environ, start_response: Any) -> list[bytes]:
        request_id = id_of_request(environ.get("HTTP_X_REQUEST_ID", ""))
        start_response(self._status, [*self._headers, (_ID, request_id)])
        return self._body
