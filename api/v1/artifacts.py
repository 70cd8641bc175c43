"""`/api/v1/runs/{id}/artifacts` and `/api/v1/artifacts`: the files of runs, and their bytes."""

from typing import Any
from uuid import UUID

from flask import Response
from marshmallow import RAISE, Schema, fields

from api.toolkit import paging
from api.toolkit.blueprints import Blueprint
from api.toolkit.context import services, tenant, transaction
from api.toolkit.downloads import SignedQuery, send_artifact, signed_address
from api.toolkit.fields import ResponseSchema, Timestamp
from api.toolkit.requests import PageQuery
from orchestrator import runs
from orchestrator.access import signing
from orchestrator.models import Artifact
from orchestrator.outputs import artifacts

blueprint = Blueprint("artifacts", __name__, url_prefix="/api/v1", description="Files of runs")


class ArtifactShown(ResponseSchema):
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


@blueprint.route("/runs/<uuid:run_id>/artifacts")
@blueprint.arguments(PageQuery, location="query", unknown=RAISE)
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
@blueprint.arguments(SignedQuery, location="query", unknown=RAISE)
@blueprint.response(200, {"type": "string", "format": "binary"}, content_type="*/*")
def download(query: dict[str, Any], artifact_id: UUID) -> Response:
    """Download a file

    With a key, or without one at an address that a list of artifacts gave. Ranges and
    `If-None-Match` work as HTTP has them.
    """
    token = query.get("token")
    owner = (
        signing.verify_artifact(services().secret_key, artifact_id, token)
        if token is not None
        else tenant()
    )
    with services().database.transaction(owner) as session:
        found = artifacts.get(session, owner, artifact_id)
    return send_artifact(found)
