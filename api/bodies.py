"""Refuse a body that no view could use, before any view sees it."""

from flask import request
from werkzeug.exceptions import BadRequest, RequestEntityTooLarge, UnsupportedMediaType

from api.context import settings
from orchestrator.documents import mistake_in
from orchestrator.errors import Invalid

_DRAINED = 64 * 1024 * 1024  # bytes read and thrown away, so that the answer is heard at all


def check_address() -> None:
    """Raises 400 for a path or query that Postgres could not even compare with."""
    if "\x00" in request.full_path or "%00" in request.full_path:
        raise BadRequest("the address has a NUL character in it")


def check_json() -> None:
    """Raises 413, 415, 400 or Invalid for a body that is too large or not usable JSON."""
    length = request.content_length or 0
    if length > settings().max_body:
        _drain(min(length, _DRAINED))
        limit = settings().max_body
        raise RequestEntityTooLarge(f"the body has {length:,} bytes; at most {limit:,} are taken")
    if request.method in ("GET", "HEAD", "OPTIONS") or not request.get_data(cache=True):
        return
    if not request.is_json:
        raise UnsupportedMediaType("send JSON, with the header `Content-Type: application/json`")
    mistake = mistake_in(request.get_json())
    if mistake:
        raise Invalid("the body cannot be stored", mistake)


def _drain(length: int) -> None:
    stream = request.environ["wsgi.input"]
    while length > 0 and (chunk := stream.read(min(length, 65536))):
        length -= len(chunk)
