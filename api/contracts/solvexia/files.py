"""Files: what is known of one, and its bytes."""

from pathlib import PurePath
from typing import Any

from flask import Response, url_for

from api.contracts.solvexia import responses
from api.contracts.solvexia.ids import number_in
from api.contracts.solvexia.surface import blueprint, or_else
from api.toolkit.context import caller, tenant, transaction
from api.toolkit.downloads import send_artifact
from orchestrator.errors import Conflict, NotFound
from orchestrator.models import Artifact, Role
from orchestrator.outputs import artifacts


@blueprint.route("/files/<file_id>")
@blueprint.response(200, {"type": "string", "format": "binary"}, content_type="*/*")
def download(file_id: str) -> Response:
    """Download a file that a step of a run left"""
    return send_artifact(_file(file_id))


@blueprint.route("/files/<file_id>", methods=["POST"])
@blueprint.response(200, responses.FileShown)
def upload(file_id: str) -> None:
    """Refuse a file

    Files here are what steps leave; they are not taken from outside.
    """
    caller().must_be(Role.OPERATOR)
    _file(file_id)
    told = "put it where the steps of the process can read it, and set a property to its address"
    raise Conflict(f"files are not uploaded here: {told}")


@blueprint.route("/files/<file_id>/metadata")
@blueprint.response(200, responses.FileShown)
def show_file(file_id: str) -> dict[str, Any]:
    """Get what is known of a file"""
    found = _file(file_id)
    return {
        "id": f"f-{found.number}",
        "name": found.name,
        "size_in_bytes": found.size,
        "file_extension": PurePath(found.name).suffix.removeprefix("."),
        "url": url_for("solvexia.download", file_id=f"f-{found.number}", _external=True),
    }


def _file(wire_id: str) -> Artifact:
    number = number_in(wire_id, "file", "f")
    with or_else(f"there is no file {wire_id}", NotFound), transaction() as session:
        return artifacts.get(session, tenant(), number)
