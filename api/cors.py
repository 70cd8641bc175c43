"""Requests from pages of other origins, which a setting allows (CORS, in the Fetch standard)."""

import re
from collections.abc import Collection

from flask import Response, request

ANY = "*"  # every origin, but without cookies
_METHODS = "GET, HEAD, POST, PUT, PATCH, DELETE"
_MAX_AGE = "600"  # seconds that a browser keeps the answer to a preflight
_NAMES = re.compile(r"[\w!#$%&'*+.^`|~-]+(\s*,\s*[\w!#$%&'*+.^`|~-]+)*", re.ASCII)


def preflight(origins: Collection[str]) -> Response | None:
    """The answer to the question of a browser that precedes a request; None for anything else.

    It says only what an allowed origin may send: browsers ask without a key.
    """
    if request.method != "OPTIONS" or "Access-Control-Request-Method" not in request.headers:
        return None
    if not {request.origin, ANY}.intersection(origins):
        return None
    response = Response(status=204)
    del response.headers["Content-Type"]
    response.headers["Access-Control-Allow-Methods"] = _METHODS
    names = request.headers.get("Access-Control-Request-Headers", "")
    if _NAMES.fullmatch(names):
        response.headers["Access-Control-Allow-Headers"] = names
    response.headers["Access-Control-Max-Age"] = _MAX_AGE
    return response


def allow_origin(response: Response, origins: Collection[str]) -> None:
    """Let the page that sent the request read the response, if its origin is an allowed one."""
    if not origins:
        return
    response.vary.add("Origin")
    if request.origin in origins and request.origin != ANY:
        response.headers["Access-Control-Allow-Origin"] = request.origin
        response.headers["Access-Control-Allow-Credentials"] = "true"
    elif request.origin and ANY in origins:
        response.headers["Access-Control-Allow-Origin"] = ANY
    else:
        return
    names = {name for name, _ in response.headers if not name.startswith("Access-")}
    response.headers["Access-Control-Expose-Headers"] = ", ".join(sorted(names))
