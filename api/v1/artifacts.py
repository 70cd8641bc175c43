"""`/api/v1/runs/{id}/artifacts` and `/api/v1/artifacts`: the files of runs and their bytes."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from flask import Response
from marshmallow import RAISE, fields

from api.toolkit.blueprints import Blueprint
from api.toolkit.context import services, tenant, transaction
from api.toolkit.downloads import SignedQuery, send_artifact, signed_address
from api.toolkit.wire import WireSchema, columns, computed
from orchestrator import runs
from orchestrator.access import signing
from orchestrator.models import Artifact
from orchestrator.outputs import artifacts

blueprint = Blueprint("artifacts", __name__, description="Files of runs")


class ArtifactSchema(WireSchema):
    """A file that a step saved; `url` is valid for an hour and needs no key."""

    class Meta:
        include = columns(
            Artifact,
            "id number run_id step attempt name kind title primary media_type size sha256 records "
            "extra created_at url",
            url=computed(fields.String, signed_address),
        )


@blueprint.route("/runs/<uuid:run_id>/artifacts")
@blueprint.paginated(ArtifactSchema, "number", int)
def page(query: dict[str, Any], run_id: UUID) -> Sequence[Artifact]:
    """List the files that a run's steps saved

    Of several attempts that saved the same name, the latest one's.
    """
    with transaction() as session:
        runs.get(session, tenant(), run_id)
        return artifacts.of_run(session, tenant(), run_id, **query)


@blueprint.route("/artifacts/<uuid:artifact_id>")
@blueprint.arguments(SignedQuery, location="query", unknown=RAISE)
@blueprint.binary()
def download(query: dict[str, Any], artifact_id: UUID) -> Response:
    """Download a file

    With a key, or without one at an address that a list of artifacts gave. Ranges and
    `If-None-Match` work as HTTP has them.
    """
    if "token" in query:
        owner = signing.verify_artifact(services().secret_key, artifact_id, query["token"])
    else:
        owner = tenant()
    with services().database.transaction(owner) as session:
        artifact = artifacts.get(session, owner, artifact_id)
    return send_artifact(artifact)
