"""`/api/v1/runs/{id}/artifacts` and `/api/v1/artifacts`: the files of runs, and their bytes."""

import re
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any
from urllib.parse import quote
from uuid import UUID

from flask import Response, request, url_for
from marshmallow import RAISE, Schema, fields
from werkzeug.exceptions import RequestedRangeNotSatisfiable

from api import paging
from api.asked import Page, Strict
from api.blueprints import Blueprint
from api.context import parts, settings, tenant, transaction
from api.schemas import Shown, Timestamp
from orchestrator import artifacts, runs, signing
from orchestrator.output_models import Artifact
from orchestrator.storage import Opened, Store, store_of

_UNSAFE = re.compile(r'[^\x20-\x7e]|["\\]')  # in a quoted string of a header

blueprint = Blueprint("artifacts", __name__, url_prefix="/api/v1", description="Files of runs")


class ArtifactShown(Shown):
    """A file that a step saved; `url` is good for an hour and needs no key."""

    id = fields.UUID()
    number = fields.Integer()
    run_id = fields.UUID()
    step = fields.String()
    attempt = fields.Integer()
    name = fields.String()
    kind = fields.String()
    title = fields.String()
    primary = fields.Boolean()
    media_type = fields.String()
    size = fields.Integer()
    sha256 = fields.String()
    records = fields.Integer(allow_none=True)
    extra = fields.Dict()
    created_at = Timestamp()
    url = fields.String()

    def _one(self, row: Artifact) -> dict[str, Any]:
        given = {name: getattr(row, name) for name in self.dump_fields if name != "url"}
        return super()._one({**given, "url": signed_address(row)})


class ArtifactPage(Schema):
    """One page of a run's files, in the order they were made."""

    items = fields.List(fields.Nested(ArtifactShown))
    next_cursor = fields.String(allow_none=True)


class Signed(Strict):
    """The token of a signed address."""

    token = fields.String()


@blueprint.route("/runs/<uuid:run_id>/artifacts")
@blueprint.arguments(Page, location="query", unknown=RAISE)
@blueprint.response(200, ArtifactPage)
def page(query: dict[str, Any], run_id: UUID) -> dict[str, Any]:
    """List the files that a run's steps saved

    Of several attempts that saved the same name, the latest one's.
    """
    (after,) = paging.decode(query.get("cursor"), int) or (0,)
    limit = query["limit"]
    with transaction() as session:
        runs.get(session, tenant(), run_id)
        found = artifacts.of_run(session, tenant(), run_id, after=after, limit=limit + 1)
    return paging.page(found, limit, lambda last: (last.number,))


@blueprint.route("/artifacts/<uuid:artifact_id>")
@blueprint.arguments(Signed, location="query", unknown=RAISE)
@blueprint.response(200, {"type": "string", "format": "binary"}, content_type="*/*")
def download(query: dict[str, Any], artifact_id: UUID) -> Response:
    """Download a file

    With a key, or without one at an address that a list of artifacts gave. Ranges and
    `If-None-Match` work as HTTP has them.
    """
    token = query.get("token")
    owner = (
        signing.signed_artifact(parts().secret_key, artifact_id, token)
        if token is not None
        else tenant()
    )
    with parts().database.transaction(owner) as session:
        found = artifacts.get(session, owner, artifact_id)
    return send(found)


def send(found: Artifact) -> Response:
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


def is_signed() -> bool:
    """Whether the request goes to a file's address and brings a token instead of a key."""
    return request.endpoint == f"{blueprint.name}.download" and "token" in request.args


def signed_address(row: Artifact, *, absolute: bool = False) -> str:
    """Where to download a file without a key, for a while."""
    token = signing.sign_artifact(parts().secret_key, row.tenant_id, row.id)
    return url_for("artifacts.download", artifact_id=row.id, token=token, _external=absolute)


def pieces(found: Artifact) -> Iterator[bytes]:
    """The bytes of a file, in pieces. Raises NotFound when they are gone."""
    with _store().open(found.address) as file:
        yield from file.pieces(0, found.size)


def _store() -> Store:
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
    opened: AbstractContextManager[Opened] = _store().open(found.address)
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
