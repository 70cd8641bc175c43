"""Steps by their ids, and their properties: parameters, and the files that a step left."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from sqlalchemy.orm import Session

from api.contracts.solvexia import mapping, requests, responses
from api.contracts.solvexia.mapping import MAX_FILES, MAX_PARAMETERS, DataStepView, PropertyView
from api.contracts.solvexia.surface import blueprint
from api.contracts.solvexia.vocabulary import FILE
from api.toolkit.context import caller, must_lend, tenant, transaction
from api.toolkit.wire import relocated, reworded
from orchestrator import runs, workflows
from orchestrator.access.permissions import Verb
from orchestrator.errors import Conflict, Invalid, InvalidTransition, Mistake, NotFound
from orchestrator.json_values import escape_pointer
from orchestrator.models import Artifact, Run
from orchestrator.outputs import artifacts
from orchestrator.spec.hidden_params import hidden_parts


class _Step(NamedTuple):
    """A step of a run or of a process."""

    view: DataStepView
    spec: Mapping[str, Any]
    run: Run | None = None
    files: Sequence[Artifact] = ()

    def properties(self) -> list[PropertyView]:
        """The parameters that it uses, and the files that it left."""
        values, number = self.run.params if self.run else {}, self.view.number
        parts = hidden_parts(self.spec.get("params", {}))
        names = mapping.names_of_step(self.spec, self.view.place)
        files = enumerate(self.files, start=MAX_PARAMETERS)
        inputs = [
            mapping.parameter(self.spec, number, *each, values, parts) for each in names.items()
        ]
        if self.run is not None:
            inputs = [
                each._replace(file=mapping.input_file_id(number, each.position))
                if each.file is None
                else each
                for each in inputs
            ]
        return [*inputs, *(mapping.output_file(number, *each) for each in files)]

    def property(self, wire_id: str) -> PropertyView:
        """One of its properties. Raises NotFound."""
        mapping.parse_id(wire_id, "property", "dsprop")
        for each in self.properties():
            if each.wire_id == wire_id:
                return each
        raise NotFound(f"step ds-{self.view.number} has no property {wire_id}")


@blueprint.route("/steps/<step_id>")
@blueprint.response(200, responses.DataStep)
def show_step(step_id: str) -> DataStepView:
    """Get a step of a process or of a process run"""
    with transaction() as session:
        return _step(session, step_id).view


@blueprint.route("/steps/<step_id>/properties")
@blueprint.response(200, responses.Property(many=True))
def list_properties(step_id: str) -> list[PropertyView]:
    """List the properties of a step

    They are the parameters that it uses, those that no step names with the first step, and the
    files that it left.
    """
    with transaction() as session:
        step = _step(session, step_id)
    return step.properties()


@blueprint.route("/steps/<step_id>/properties/<wire_id>")
@blueprint.response(200, responses.Property)
def show_property(step_id: str, wire_id: str) -> PropertyView:
    """Get a property of a step"""
    with transaction() as session:
        step = _step(session, step_id)
    return step.property(wire_id)


@blueprint.route("/steps/<step_id>/properties/<wire_id>", methods=["POST"])
@blueprint.arguments(requests.PropertyValue)
@blueprint.response(200, responses.Property)
def change_property(body: dict[str, Any], step_id: str, wire_id: str) -> PropertyView:
    """Set a property of a step of a process run that has not started"""
    with transaction() as session:
        step = _step(session, step_id)
        before = step.property(wire_id)
        member = "file" if before.data_type == FILE else "value"
        if before.position >= MAX_PARAMETERS:
            raise Conflict(f"{before.name!r} is a file that the step left; it cannot be set")
        if member not in body:
            raise Invalid("there is nothing to set", Mistake(f"/{member}", "missing"))
        if step.run is None:
            raise Conflict("the properties of a process are set in its definition; set a run's")
        if body[member] == mapping.input_file_id(step.view.number, before.position):
            return before  # sent back as it was shown: there is no file yet
        must_lend(step.run.run_as, "runs")
        value = mapping.parse_value(mapping.schema_of(step.spec, before.name), body[member])
        late = f"Process run pr-{step.run.number} is not NotStarted; it is too late to set"
        places = {f"/params/{escape_pointer(before.name)}": f"/{member}"}
        misfit = "the value does not fit the property"
        with reworded(late, InvalidTransition), relocated(places, misfit):
            runs.amend_run(session, tenant(), step.run.id, {before.name: value})
        return _step(session, step_id).property(wire_id)


def _step(session: Session, wire_id: str) -> _Step:
    """The step of an id. Raises NotFound."""
    number = mapping.parse_id(wire_id, "step", "ds", "as")
    of_process = mapping.process_and_place(number)
    with reworded(f"there is no step {wire_id}", NotFound):
        return _of_process(session, *of_process) if of_process else _of_run(session, number)


def _of_run(session: Session, number: int) -> _Step:
    run, step = runs.step_by_number(session, tenant(), number)
    view = mapping.run_step(step, runs.steps(session, run).index(step))
    workflow = workflows.of_runs(session, [run])[run.workflow_id]
    spec = workflows.get_version(session, workflow, run.version).spec
    if not caller().may("artifacts", Verb.READ):
        return _Step(view=view, spec=spec, run=run)
    files = artifacts.of_run(session, tenant(), run.id, step_id=step.id, limit=MAX_FILES)
    return _Step(view=view, spec=spec, run=run, files=[each for each in files if each.attempt])


def _of_process(session: Session, process: int, place: int) -> _Step:
    caller().must("workflows", Verb.READ)
    workflow = workflows.get(session, tenant(), process)
    spec = workflows.get_version(session, workflow).spec
    if place >= len(spec["steps"]):
        raise NotFound("there is no such step")
    return _Step(view=mapping.process_step(workflow, spec, place), spec=spec)
