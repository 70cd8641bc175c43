"""Bytes of artifacts: whole, in ranges, at signed addresses."""

import re
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any
from urllib.parse import quote

from flask import Response, request, url_for
from marshmallow import fields
from werkzeug.exceptions import RequestedRangeNotSatisfiable

from api.toolkit.context import services, settings
from api.toolkit.requests import StrictSchema
from orchestrator.access import signing
from orchestrator.models import Artifact
from orchestrator.outputs.storage import ArtifactStore, OpenedArtifact, store_of

_DOWNLOAD = "artifacts.download"  # the endpoint that the address is of
_UNSAFE = re.compile(r'[^\x20-\x7e]|["\\]')  # in a quoted string of a header


class SignedQuery(StrictSchema):
    """The token of a signed address."""

    token = fields.String()


def send_artifact(found: Artifact) -> Response:
    """The bytes of a file, or of them those that are asked for and not known to the client.

    Raises RequestedRangeNotSatisfiable for a range that begins after the end.
    """
    tag = f'"{found.sha256}"'
    if request.if_none_match.contains_weak(found.sha256):
        return Response(status=304, headers={"ETag": tag})
    ranged = _range(found)
    start, length = ranged or (0, found.size)
    body, close = _bytes(found, start, length)
    answer = Response(body, status=206 if ranged else 200, headers=_headers(found))
    answer.call_on_close(close)
    answer.headers["ETag"], answer.content_length = tag, length
    if ranged:
        answer.headers["Content-Range"] = f"bytes {start}-{start + length - 1}/{found.size}"
    return answer


def has_signed_address() -> bool:
    """Whether the request goes to a file's address and brings a token instead of a key."""
    return request.endpoint == _DOWNLOAD and "token" in request.args


def signed_address(row: Artifact, *, absolute: bool = False) -> str:
    """Where to download a file without a key, for a while."""
    token = signing.sign_artifact(services().secret_key, row.tenant_id, row.id)
    return url_for(_DOWNLOAD, artifact_id=row.id, token=token, _external=absolute)


def artifact_chunks(found: Artifact) -> Iterator[bytes]:
    """The bytes of a file, in pieces. Raises NotFound when they are gone."""
    with _store().open(found.address) as file:
        yield from file.pieces(0, found.size)


def _store() -> ArtifactStore:
    return store_of(settings())


def _range(found: Artifact) -> tuple[int, int] | None:
    """Where the answer starts and how long it is; None: all of it, as for several ranges at once.

    Raises RequestedRangeNotSatisfiable for one that begins after the end.
    """
    asked, condition = request.range, request.if_range
    if condition.date or (condition.etag is not None and condition.etag != found.sha256):
        asked = None
    if asked is None or asked.units != "bytes" or len(asked.ranges) != 1:
        return None
    limits = asked.range_for_length(found.size)
    if limits is None:
        raise RequestedRangeNotSatisfiable(found.size)
    return limits[0], limits[1] - limits[0]


def _bytes(found: Artifact, start: int, length: int) -> tuple[Any, Any]:
    """The bytes in pieces, and what to call when the reader is done or gone."""
    if request.method == "HEAD":
        return (), lambda: None
    # Opened before the answer begins: a file that is gone is an error, not half an answer.
    opened: AbstractContextManager[OpenedArtifact] = _store().open(found.address)
    file = opened.__enter__()
    return file.pieces(start, length), lambda: opened.__exit__(None, None, None)


def _headers(found: Artifact) -> dict[str, str]:
    plain = _UNSAFE.sub("_", found.name)
    return {
        "Content-Type": found.media_type,
        # Never shown in place: a page that a step wrote must not act as a page of ours.
        "Content-Disposition": (
            f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(found.name, safe='')}"
        ),
        "X-Content-Type-Options": "nosniff",
        "Content-Security-Policy": "sandbox; default-src 'none'",
        "Cache-Control": "private, max-age=3600",
        "Accept-Ranges": "bytes",
    }
