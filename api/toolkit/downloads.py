"""Downloads of artifacts: whole files, ranges, signed URLs."""

import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

from flask import Response, request, url_for
from marshmallow import fields
from werkzeug.exceptions import RequestedRangeNotSatisfiable

from api.capacity import gate
from api.toolkit.context import services, settings
from api.toolkit.fields import StrictSchema
from config.response_headers import CONTENT_POLICY
from orchestrator.access import signing
from orchestrator.models import Artifact
from orchestrator.outputs.storage import store_of

_ENDPOINT = "artifacts.download"
_CACHE = "private, max-age=3600"  # a file never changes
_UNSAFE = re.compile(r'[^\x20-\x7e]|["\\]')  # characters not allowed in a quoted header string


class SignedQuery(StrictSchema):
    """The token of a signed URL."""

    token = fields.String()


def send_artifact(artifact: Artifact) -> Response:
    """The file, the requested range of it, or 304 if the client has it.

    Raises RequestedRangeNotSatisfiable for a range that begins after the end.
    """
    tag = f'"{artifact.sha256}"'
    if request.if_none_match.contains_weak(artifact.sha256):
        return Response(status=304, headers={"ETag": tag, "Cache-Control": _CACHE})
    leave = gate.current().hold_stream()
    part = _range(artifact)
    start, length = part or (0, artifact.size)
    body, close = _bytes(artifact, start, length)
    response = Response(body, status=206 if part else 200, headers=_headers(artifact))
    response.call_on_close(close)
    response.call_on_close(leave)
    response.headers["ETag"], response.content_length = tag, length
    if part:
        response.headers["Content-Range"] = f"bytes {start}-{start + length - 1}/{artifact.size}"
    return response


def has_signed_address() -> bool:
    """Whether the request is a download with a token instead of a key."""
    return request.endpoint == _ENDPOINT and "token" in request.args


def signed_address(row: Artifact, *, absolute: bool = False) -> str:
    """A URL that downloads a file without a key, for a limited time."""
    token = signing.sign_artifact(services().secret_key, row.tenant_id, row.id)
    return url_for(_ENDPOINT, artifact_id=row.id, token=token, _external=absolute)


def artifact_chunks(artifact: Artifact) -> Iterator[bytes]:
    """The bytes of a file in chunks. Raises NotFound for a missing file."""
    with store_of(settings()).open(artifact.address) as file:
        yield from file.pieces(0, artifact.size)


def _range(artifact: Artifact) -> tuple[int, int] | None:
    """Start and length of the requested range; None for the whole file, as for several ranges."""
    ranges, condition = request.range, request.if_range
    if condition.date or (condition.etag is not None and condition.etag != artifact.sha256):
        return None
    if ranges is None or ranges.units != "bytes" or len(ranges.ranges) != 1:
        return None
    limits = ranges.range_for_length(artifact.size)
    if limits is None:
        raise RequestedRangeNotSatisfiable(artifact.size)
    return limits[0], limits[1] - limits[0]


def _bytes(artifact: Artifact, start: int, length: int) -> tuple[Any, Any]:
    """The bytes in chunks, and a function that closes the file."""
    if request.method == "HEAD":
        return (), lambda: None
    # Opened before the response starts, so that a missing file is a 404 and not a truncated 200.
    opened = store_of(settings()).open(artifact.address)
    file = opened.__enter__()
    return file.pieces(start, length), lambda: opened.__exit__(None, None, None)


def _headers(artifact: Artifact) -> dict[str, str]:
    plain = _UNSAFE.sub("_", artifact.name)
    return {
        "Content-Type": artifact.media_type,
        # Never rendered inline: HTML that a step wrote must not run in this origin (XSS).
        "Content-Disposition": (
            f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(artifact.name, safe='')}"
        ),
        "Content-Security-Policy": f"sandbox; {CONTENT_POLICY}",
        "Cache-Control": _CACHE,
        "Accept-Ranges": "bytes",
    }
