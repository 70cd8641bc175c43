"""Files: their metadata, their bytes, and uploads for the properties of a run's steps."""

from flask import Response, request
from sqlalchemy.orm import Session

from api.contracts.solvexia import mapping, responses
from api.contracts.solvexia.mapping import parse_id
from api.contracts.solvexia.surface import blueprint
from api.contracts.solvexia.vocabulary import FILE, data_type
from api.toolkit import request_guards
from api.toolkit.context import must_lend, settings, tenant, transaction
from api.toolkit.downloads import send_artifact
from api.toolkit.wire import reworded
from orchestrator import runs, workflows
from orchestrator.errors import Conflict, Invalid, InvalidTransition, Mistake, NotFound
from orchestrator.models import Artifact, Run, Step
from orchestrator.outputs import artifacts
from orchestrator.outputs.storage import ArtifactTooLarge, store_of
from orchestrator.sdk.files import FileSpec

_PART = "file"  # of the multipart body


@blueprint.route("/files/<file_id>", resources="artifacts")
@blueprint.binary()
def download(file_id: str) -> Response:
    """Download a file that a step of a run left, or that was uploaded"""
    return send_artifact(_file(file_id))


@blueprint.route("/files/<file_id>", methods=["POST"], resources="artifacts")
@blueprint.doc(
    requestBody={
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": [_PART],
                    "properties": {_PART: {"type": "string", "format": "binary"}},
                }
            }
        },
    }
)
@blueprint.response(200, responses.File)
def upload(file_id: str) -> Artifact:
    """Upload a file for a property of a process run that has not started

    The property of the type `File` has the id. The file becomes one of the run's, and its id the
    value of the property.
    """
    spec, content = _uploaded_file()
    with transaction() as session:
        run, step, name = _place(session, file_id)
        must_lend(run.run_as, "runs")
        late = f"Process run pr-{run.number} is not NotStarted; it is too late to upload"
        with reworded(late, InvalidTransition):
            runs.must_be_held(session, tenant(), run.id)
        store, limit = store_of(settings()), settings().artifact_limit
        try:
            file = artifacts.save_input(session, store, step, spec, content, limit=limit)
        except ArtifactTooLarge as error:
            raise Invalid("the file is too large", Mistake(f"/{_PART}", str(error))) from None
        runs.amend_run(session, tenant(), run.id, {name: f"f-{file.number}"})
        return file


@blueprint.route("/files/<file_id>/metadata", resources="artifacts")
@blueprint.response(200, responses.File)
def show_file(file_id: str) -> Artifact:
    """Get what is known of a file"""
    return _file(file_id)


def _uploaded_file() -> tuple[FileSpec, bytes]:
    """The name and the bytes of the part `file` of the body. Raises Invalid."""
    request_guards.check_size()
    part = request.files.get(_PART)
    if part is None:
        detail = f"send the file as the part {_PART!r} of a multipart/form-data body"
        raise Invalid("there is no file in the body", Mistake(f"/{_PART}", detail))
    try:
        return FileSpec(name=part.filename or "", media_type=part.mimetype), part.read()
    except ValueError as error:
        raise Invalid("the file cannot be kept", Mistake(f"/{_PART}", str(error))) from None


def _place(session: Session, wire_id: str) -> tuple[Run, Step, str]:
    """The run, the step and the parameter that an upload is for. Raises NotFound and Conflict."""
    number = parse_id(wire_id, "file", "f")
    at = mapping.step_and_position(number)
    with reworded(f"there is no file {wire_id}", NotFound):
        if at is None:
            file = artifacts.get(session, tenant(), number)
            run = runs.get(session, tenant(), file.run_id)
            step = runs.step(session, run, file.step)
            names = [name for name, value in run.params.items() if value == f"f-{number}"]
        else:
            run, step = runs.step_by_number(session, tenant(), at[0])
            names = _input_name(session, run, step, at[1])
    if not names and at is None:
        raise Conflict(f"a step left the file {wire_id}; it is not replaced")
    if not names:
        raise NotFound(f"there is no file {wire_id}")
    return run, step, names[0]


def _input_name(session: Session, run: Run, step: Step, position: int) -> list[str]:
    """The parameter at a position, if the step uses it and it is a file."""
    workflow = workflows.of_runs(session, [run])[run.workflow_id]
    spec = workflows.get_version(session, workflow, run.version).spec
    names = mapping.names_of_step(spec, step.position - 1)
    return [
        name
        for at, name in names.items()
        if at == position and data_type(mapping.schema_of(spec, name)) == FILE
    ]


def _file(wire_id: str) -> Artifact:
    number = parse_id(wire_id, "file", "f")
    with reworded(f"there is no file {wire_id}", NotFound), transaction() as session:
        if mapping.step_and_position(number) is not None:
            run, _, name = _place(session, wire_id)
            number = parse_id(str(run.params.get(name)), "file", "f")
        return artifacts.get(session, tenant(), number)
