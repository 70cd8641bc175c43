"""Steps by their id alone, and their properties: parameters, and the files that a step left."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from marshmallow import fields
from sqlalchemy.orm import Session

from api.contracts.solvexia import mapping, parameters, processes, responses
from api.contracts.solvexia.ids import (
    MOST_FILES,
    MOST_PARAMETERS,
    number_in,
    process_step,
    property_id,
    property_in,
)
from api.contracts.solvexia.surface import blueprint, or_else
from api.toolkit.context import caller, tenant, transaction
from orchestrator import runs, workflows
from orchestrator.errors import Conflict, Invalid, Mistake, NotFound
from orchestrator.json_values import escape_pointer
from orchestrator.models import Artifact, Role, Run
from orchestrator.outputs import artifacts


class PropertyAsked(responses.Asked):
    """A property as it is to be; only its value can change."""

    value = fields.Raw(allow_none=True)
    file = fields.Raw(allow_none=True)


@dataclass(frozen=True, kw_only=True)
class _Step:
    """A step of a run, or of a process; the spec it stands in, and where."""

    number: int
    spec: Mapping[str, Any]
    place: int  # from 0
    shown: Mapping[str, Any]
    run: Run | None = None
    files: Sequence[Artifact] = ()

    def properties(self) -> dict[int, dict[str, Any]]:
        """All of its properties, by their positions."""
        values = self.run.params if self.run else {}
        given = {
            position: parameters.shown(self.spec, self.number, position, name, values)
            for position, name in parameters.names_of_step(self.spec, self.place).items()
        }
        left = {
            position: parameters.left(property_id(self.number, position), file)
            for position, file in enumerate(self.files, start=MOST_PARAMETERS)
        }
        return given | left

    def property(self, wire_id: str) -> tuple[int, dict[str, Any]]:
        """One of its properties, and its position. Raises NotFound."""
        position = property_in(wire_id, self.number)
        found = self.properties().get(position)
        if found is None:
            raise NotFound(f"step ds-{self.number} has no property {wire_id}")
        return position, found


@blueprint.route("/steps/<step_id>")
@blueprint.response(200, responses.DataStepShown)
def show_step(step_id: str) -> Mapping[str, Any]:
    """Get a step of a process or of a process run"""
    with transaction() as session:
        return _step(session, step_id).shown


@blueprint.route("/steps/<step_id>/properties")
@blueprint.response(200, responses.PropertyShown(many=True))
def list_properties(step_id: str) -> list[dict[str, Any]]:
    """List the properties of a step

    They are the parameters that it uses, those that no step names with the first step, and the
    files that it left.
    """
    with transaction() as session:
        step = _step(session, step_id)
    return list(step.properties().values())


@blueprint.route("/steps/<step_id>/properties/<wire_id>")
@blueprint.response(200, responses.PropertyShown)
def show_property(step_id: str, wire_id: str) -> dict[str, Any]:
    """Get a property of a step"""
    with transaction() as session:
        step = _step(session, step_id)
    return step.property(wire_id)[1]


@blueprint.route("/steps/<step_id>/properties/<wire_id>", methods=["POST"])
@blueprint.arguments(PropertyAsked)
@blueprint.response(200, responses.PropertyShown)
def change_property(body: dict[str, Any], step_id: str, wire_id: str) -> dict[str, Any]:
    """Set a property of a step of a process run that has not started"""
    caller().must_be(Role.OPERATOR)
    with transaction() as session:
        step = _step(session, step_id)
        position, before = step.property(wire_id)
        member = "file" if before["data_type"] == parameters.FILE else "value"
        if position >= MOST_PARAMETERS:
            raise Conflict(f"{before['name']!r} is a file that the step left; it cannot be set")
        if member not in body:
            raise Invalid("there is nothing to set", Mistake(f"/{member}", "missing"))
        if step.run is None:
            raise Conflict("the properties of a process are set in its definition; set a run's")
        name = before["name"]
        value = parameters.read(parameters.schema_of(step.spec, name), body[member])
        late = f"Process run pr-{step.run.number} is not NotStarted; it is too late to set"
        with or_else(late), _pointing(f"/params/{escape_pointer(name)}", f"/{member}"):
            runs.amend_run(session, tenant(), step.run.id, {name: value})
        return _step(session, step_id).property(wire_id)[1]


@contextmanager
def _pointing(parameter: str, member: str) -> Iterator[None]:
    """Say of the body, which has one value, what the parameters of the run say of it."""
    try:
        yield
    except Invalid as error:
        found = [
            Mistake(each.pointer.replace(parameter, member, 1), each.detail)
            for each in error.mistakes
        ]
        raise Invalid("the value does not fit the property", *found) from None


def _step(session: Session, wire_id: str) -> _Step:
    """The step that an id stands for. Raises NotFound."""
    number = number_in(wire_id, "step", "ds", "as")
    find = _of_run if process_step(number) is None else _of_process
    with or_else(f"there is no step {wire_id}", NotFound):
        return find(session, number)


def _of_run(session: Session, number: int) -> _Step:
    run, step = runs.step_by_number(session, tenant(), number)
    keys = [each.key for each in runs.steps(session, run)]
    place = keys.index(step.key)
    workflow = workflows.of_runs(session, [run])[run.workflow_id]
    spec = workflows.get_version(session, workflow, run.version).spec
    shown = mapping.run_step(step, place + 1)
    left = artifacts.of_run(session, tenant(), run.id, step_id=step.id, limit=MOST_FILES)
    return _Step(number=number, spec=spec, place=place, shown=shown, run=run, files=left)


def _of_process(session: Session, number: int) -> _Step:
    wanted = process_step(number)
    assert wanted is not None
    workflow = workflows.get(session, tenant(), wanted.process)
    spec = workflows.get_version(session, workflow).spec
    if wanted.position >= len(spec["steps"]):
        raise NotFound(f"there is no step ds-{number}")
    shown = processes.process_step(workflow, spec, wanted.position)
    return _Step(number=number, spec=spec, place=wanted.position, shown=shown)
