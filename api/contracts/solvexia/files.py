"""Files: their metadata and their bytes."""

from flask import Response

from api.contracts.solvexia import responses
from api.contracts.solvexia.mapping import parse_id
from api.contracts.solvexia.surface import blueprint
from api.toolkit.context import tenant, transaction
from api.toolkit.downloads import send_artifact
from api.toolkit.wire import reworded
from orchestrator.errors import Conflict, NotFound
from orchestrator.models import Artifact
from orchestrator.outputs import artifacts


@blueprint.route("/files/<file_id>", resources="artifacts")
@blueprint.response(200, {"type": "string", "format": "binary"}, content_type="*/*")
def download(file_id: str) -> Response:
    """Download a file that a step of a run left"""
    return send_artifact(_file(file_id))


@blueprint.route("/files/<file_id>", methods=["POST"], resources="artifacts")
@blueprint.response(200, responses.File)
def upload(file_id: str) -> None:
    """Refuse a file

    Files here are what steps leave; they are not taken from outside.
    """
    _file(file_id)
    advice = "put it where the steps of the process can read it, and set a property to its address"
    raise Conflict(f"files are not uploaded here: {advice}")


@blueprint.route("/files/<file_id>/metadata", resources="artifacts")
@blueprint.response(200, responses.File)
def show_file(file_id: str) -> Artifact:
    """Get what is known of a file"""
    return _file(file_id)


def _file(wire_id: str) -> Artifact:
    number = parse_id(wire_id, "file", "f")
    with reworded(f"there is no file {wire_id}", NotFound), transaction() as session:
        return artifacts.get(session, tenant(), number)
