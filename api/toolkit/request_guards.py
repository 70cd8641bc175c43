"""Refuse a body that no view could use, before any view sees it."""

import re
from collections.abc import Mapping
from typing import Any

from flask import request
from werkzeug.exceptions import BadRequest, RequestEntityTooLarge, UnsupportedMediaType

from api.toolkit.context import settings
from orchestrator.errors import Invalid, Mistake
from orchestrator.json_values import escape_pointer, find_unstorable

_PARAMETER = re.compile(r"<(?:[^:<>]+:)?([^<>]+)>")  # as Flask writes it in a rule
_DRAINED = 64 * 1024 * 1024  # bytes read and thrown away, so that the answer is heard at all


def check_address() -> None:
    """Raises 400 for a path or query that Postgres could not even compare with."""
    if "\x00" in request.full_path or "%00" in request.full_path:
        raise BadRequest("the address has a NUL character in it")


def check_query(known: Mapping[str, frozenset[str]]) -> None:
    """Raises Invalid for a query parameter that the address does not take.

    `known` has the parameters of each documented address and method.
    """
    rule = _PARAMETER.sub(r"{\1}", str(request.url_rule))
    names = known.get(f"{request.method} {rule}")
    if names is None:
        return
    mistakes = [
        Mistake(
            f"/query/{escape_pointer(name)}",
            f"unknown; there are {', '.join(sorted(names)) or 'none'}",
        )
        for name in request.args
        if name not in names
    ]
    if mistakes:
        raise Invalid("the query has a parameter that this address does not take", *mistakes)


def documented_queries(document: Mapping[str, Any]) -> dict[str, frozenset[str]]:
    """The query parameters of each address and method of an OpenAPI document."""
    return {
        f"{method.upper()} {address}": frozenset(
            each["name"] for each in operation.get("parameters", ()) if each["in"] == "query"
        )
        for address, methods in document["paths"].items()
        for method, operation in methods.items()
        if isinstance(operation, dict)
    }


def check_size() -> None:
    """Raises 413 for a body that is too large."""
    limit = settings().max_body
    if (request.content_length or 0) > limit:
        _drain(min(request.content_length or 0, _DRAINED))
        raise RequestEntityTooLarge(f"a body of at most {limit:,} bytes is taken")
    if len(request.get_data(cache=True)) > limit:  # it came in chunks, without its length
        raise RequestEntityTooLarge(f"a body of at most {limit:,} bytes is taken")


def check_json() -> None:
    """Raises 413, 415, 400 or Invalid for a body that is too large or not usable JSON."""
    check_size()
    if request.method in ("GET", "HEAD", "OPTIONS") or not request.get_data(cache=True):
        return
    if not request.is_json:
        raise UnsupportedMediaType("send JSON, with the header `Content-Type: application/json`")
    try:
        body = request.get_json()
    except BadRequest:
        raise not_json() from None
    if mistake := find_unstorable(body):
        raise Invalid("the body cannot be stored", mistake)


def not_json() -> BadRequest:
    """The refusal of a body that is not JSON."""
    error = BadRequest("the body is not JSON")
    error.data = {"messages": {"json": ["not JSON"]}}  # type: ignore[attr-defined]
    return error


def _drain(length: int) -> None:
    stream = request.environ["wsgi.input"]
    while length > 0 and (chunk := stream.read(min(length, 65536))):
        length -= len(chunk)
