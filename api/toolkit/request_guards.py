"""Reject unusable addresses, queries and bodies before a view runs."""

import re
from collections.abc import Mapping
from typing import Any

from flask import request
from werkzeug.exceptions import (
    BadRequest,
    ClientDisconnected,
    RequestEntityTooLarge,
    UnsupportedMediaType,
)

from api.toolkit.auth import READS
from api.toolkit.context import settings
from orchestrator.errors import Invalid, Mistake
from orchestrator.json_values import escape_pointer, find_unstorable

_PARAMETER = re.compile(r"<(?:[^:<>]+:)?([^<>]+)>")  # of a Flask rule
# Bytes of an oversized body read before the 413: clients that are still sending miss the response.
_MAX_DRAINED = 64 * 1024 * 1024
# Content types accepted as JSON: none, or the defaults of curl and HTTP libraries.
_JSON_TYPES = ("", "application/x-www-form-urlencoded", "application/octet-stream", "text/plain")


def check_address() -> None:
    """Raises BadRequest for a NUL in the path or query: Postgres has no such text."""
    if "\x00" in request.full_path or "%00" in request.full_path:
        raise BadRequest("the address has a NUL character in it")


def check_query(documented: Mapping[str, frozenset[str]]) -> None:
    """Raises Invalid for undocumented query parameters.

    `documented` are the parameters from `documented_queries`.
    """
    rule = _PARAMETER.sub(r"{\1}", str(request.url_rule))
    names = documented.get(f"{request.method} {rule}")
    if names is None:
        return
    detail = f"unknown; there are {', '.join(sorted(names)) or 'none'}"
    unknown = [name for name in request.args if name not in names]
    if mistakes := [Mistake(f"/query/{escape_pointer(name)}", detail) for name in unknown]:
        raise Invalid("the query has a parameter that this address does not take", *mistakes)


def documented_queries(document: Mapping[str, Any]) -> dict[str, frozenset[str]]:
    """The names of query parameters by `METHOD /address` of an OpenAPI document."""
    return {
        f"{method.upper()} {address}": frozenset(
            each["name"] for each in operation.get("parameters", ()) if each["in"] == "query"
        )
        for address, methods in document["paths"].items()
        for method, operation in methods.items()
        if isinstance(operation, dict)
    }


def check_size() -> None:
    """Raises RequestEntityTooLarge for a body over the limit, ClientDisconnected for half a one."""
    limit = settings().max_body
    length = request.content_length or 0
    if length > limit:
        rest = min(length, _MAX_DRAINED)
        while rest > 0 and (chunk := request.environ["wsgi.input"].read(min(rest, 65536))):
            rest -= len(chunk)
    # A chunked body has no Content-Length.
    if length > limit or len(request.get_data(cache=True)) > limit:
        raise RequestEntityTooLarge(f"a body of at most {limit:,} bytes is taken")
    if len(request.get_data(cache=True)) < length:
        raise ClientDisconnected()


def check_json() -> None:
    """Raises 413, 415, 400 or Invalid for a body that is too large or no storable JSON."""
    check_size()
    if request.method not in READS and request.get_data(cache=True):
        _storable_json(any_type=False)


def read_json(*, any_type: bool = False) -> Any:
    """The JSON of the body; None for an empty one of any content type.

    Raises 413, 415 for another content type unless `any_type`, 400 for a body that is not JSON,
    and Invalid for one that cannot be stored.
    """
    check_size()
    if not request.get_data(cache=True).strip():
        return None
    return _storable_json(any_type=any_type or request.mimetype in _JSON_TYPES)


def _storable_json(*, any_type: bool) -> Any:
    encoding = request.headers.get("Content-Encoding", "identity")
    if encoding.lower() != "identity":
        raise UnsupportedMediaType(f"Content-Encoding is {encoding}; send the body uncompressed")
    body = request.get_json(force=any_type)
    if mistake := find_unstorable(body):
        raise Invalid("the body cannot be stored", mistake)
    return body
