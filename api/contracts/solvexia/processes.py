"""Processes: what there is to run, and the runs that are made of it."""

from typing import Any

from marshmallow import Schema, fields, validate
from sqlalchemy.orm import Session

from api.contracts.solvexia import mapping, responses
from api.contracts.solvexia import runs as process_runs
from api.contracts.solvexia.ids import ProcessStep, number_in, number_of
from api.contracts.solvexia.surface import blueprint, or_else
from api.toolkit.context import caller, settings, tenant, transaction
from api.toolkit.fields import Timestamp
from orchestrator import runs, workflows
from orchestrator.errors import NotFound
from orchestrator.models import Role, Workflow
from orchestrator.runs import RunFilter, RunSort

# Nothing here has pages; a list is as long as one answer may be.
_MOST_PROCESSES = 10_000
_MOST_RUNS = 1000


class Made(Schema):
    """When what is listed was made: after one instant, before another."""

    created_after = Timestamp(data_key="dateCreatedStart")
    created_before = Timestamp(data_key="dateCreatedEnd")


class Named(Made):
    """The same, and what its name has in it, in whichever case."""

    name = fields.String()


class NewRunAsked(responses.Asked):
    """How a new run is to be called."""

    prefix = fields.String(
        data_key="namePrefix",
        allow_none=True,
        validate=validate.Length(max=200),
        metadata={"description": "stands before its generated name"},
    )


@blueprint.route("/processes")
@blueprint.arguments(Named, location="query")
@blueprint.response(200, responses.Listed(many=True))
def list_processes(query: dict[str, Any]) -> list[dict[str, str]]:
    """List processes

    By name, the first 10,000 of them.
    """
    with transaction() as session:
        found = workflows.search(session, tenant(), limit=_MOST_PROCESSES, **query)
    return [{"id": f"p-{each.number}", "name": each.name} for each in found]


@blueprint.route("/processes/<process_id>")
@blueprint.response(200, responses.ProcessShown)
def show_process(process_id: str) -> dict[str, Any]:
    """Get a process"""
    with transaction() as session:
        return mapping.process(_process(session, process_id))


@blueprint.route("/processes/<process_id>/processruns", methods=["POST"])
@blueprint.arguments(NewRunAsked, required=False)
@blueprint.response(200, responses.ProcessRunShown)
def create_run(body: dict[str, Any], process_id: str) -> dict[str, Any]:
    """Create a run of a process, and do not start it

    Properties of its steps may be set until it starts, those that are required among them.
    """
    caller().must_be(Role.OPERATOR)
    who, prefix = caller(), (body.get("prefix") or "").strip()
    with transaction() as session:
        new = runs.NewRun(
            workflow=_process(session, process_id).name,
            start=False,
            complete=False,
            source_type="key",
            source_id=str(who.key_id),
            submitted_by=who.submitter,
        )
        run, _ = runs.submit(session, tenant(), new, window=settings().window)
        if prefix:
            name = f"{prefix} {mapping.run_name(run)}"
            run = runs.change(session, tenant(), run.id, name=name)
    with transaction() as session:  # what happened to it is written by now
        return process_runs.shown(session, runs.get(session, tenant(), run.id))


@blueprint.route("/processes/<process_id>/processruns")
@blueprint.arguments(Made, location="query")
@blueprint.response(200, responses.Listed(many=True))
def list_runs(query: dict[str, Any], process_id: str) -> list[dict[str, str]]:
    """List the runs of a process

    The newest first, the newest 1,000 of those that were made in between.
    """
    with transaction() as session:
        which = RunFilter(workflow=(_process(session, process_id).name,), **query)
        shown = ("number", "workflow", "name")
        found = runs.columns(session, tenant(), which, RunSort(), _MOST_RUNS, shown)
    return [{"id": f"pr-{run.number}", "name": mapping.run_name(run)} for run in found]


@blueprint.route("/processes/<process_id>/steps")
@blueprint.response(200, responses.DataStepShown(many=True))
def list_steps(process_id: str) -> list[dict[str, Any]]:
    """List the steps of a process

    A run has steps of its own, with other ids.
    """
    with transaction() as session:
        workflow = _process(session, process_id)
        spec = workflows.get_version(session, workflow).spec
    return [process_step(workflow, spec, place) for place in range(len(spec["steps"]))]


def process_step(workflow: Workflow, spec: dict[str, Any], place: int) -> dict[str, Any]:
    """A step of a process as `DataStepShown` shows it."""
    step, number = spec["steps"][place], number_of(ProcessStep(workflow.number, place))
    name, is_enabled = step.get("name") or step["key"], step.get("enabled", True)
    return mapping.data_step(number, place + 1, name, is_enabled=is_enabled)


def _process(session: Session, wire_id: str) -> Workflow:
    number = number_in(wire_id, "process", "p")
    with or_else(f"there is no process {wire_id}", NotFound):
        return workflows.get(session, tenant(), number)
