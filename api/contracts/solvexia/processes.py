"""Processes, and the runs that are created from them."""

from typing import Any

from sqlalchemy.orm import Session

from api.contracts.solvexia import mapping, requests, responses
from api.contracts.solvexia import runs as process_runs
from api.contracts.solvexia.mapping import DataStepView, RunView, parse_id
from api.contracts.solvexia.surface import blueprint
from api.toolkit.context import caller, settings, tenant, transaction
from api.toolkit.wire import reworded
from orchestrator import runs, workflows
from orchestrator.errors import NotFound
from orchestrator.models import Workflow
from orchestrator.runs import RunFilter, RunSort

_MAX_PROCESSES, _MAX_RUNS = 10_000, 1000  # of an answer; there are no pages


@blueprint.route("/processes", resources="workflows")
@blueprint.arguments(requests.ProcessQuery, location="query")
@blueprint.response(200, responses.Item(many=True))
def list_processes(query: dict[str, Any]) -> list[dict[str, str]]:
    """List processes

    By name, the first 10,000 of them.
    """
    with transaction() as session:
        rows = workflows.search(session, tenant(), limit=_MAX_PROCESSES, **query)
    return [{"id": f"p-{row.number}", "name": row.name} for row in rows]


@blueprint.route("/processes/<process_id>", resources="workflows")
@blueprint.response(200, responses.Process)
def show_process(process_id: str) -> Workflow:
    """Get a process"""
    with transaction() as session:
        return _process(session, process_id)


@blueprint.route("/processes/<process_id>/processruns", methods=["POST"])
@blueprint.arguments(requests.NewRun, required=False)
@blueprint.response(200, responses.ProcessRun)
def create_run(body: dict[str, Any], process_id: str) -> RunView:
    """Create a run of a process, and do not start it

    Properties of its steps may be set until it starts, those that are required among them.
    """
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
    with transaction() as session:  # its events are committed
        return process_runs.run_view(session, runs.get(session, tenant(), run.id))


@blueprint.route("/processes/<process_id>/processruns")
@blueprint.arguments(requests.CreatedQuery, location="query")
@blueprint.response(200, responses.Item(many=True))
def list_runs(query: dict[str, Any], process_id: str) -> list[dict[str, str]]:
    """List the runs of a process

    The newest first, the newest 1,000 of those that were made in between.
    """
    with transaction() as session:
        matching = RunFilter(workflow=(_process(session, process_id).name,), **query)
        columns = ("number", "ordinal", "workflow", "name")
        rows = runs.columns(session, tenant(), matching, RunSort(), _MAX_RUNS, columns)
    return [{"id": f"pr-{row.number}", "name": mapping.run_name(row)} for row in rows]


@blueprint.route("/processes/<process_id>/steps", resources="workflows")
@blueprint.response(200, responses.DataStep(many=True))
def list_steps(process_id: str) -> list[DataStepView]:
    """List the steps of a process

    A run has steps of its own, with other ids.
    """
    with transaction() as session:
        workflow = _process(session, process_id)
        spec = workflows.get_version(session, workflow).spec
    return [mapping.process_step(workflow, spec, place) for place in range(len(spec["steps"]))]


def _process(session: Session, wire_id: str) -> Workflow:
    number = parse_id(wire_id, "process", "p")
    with reworded(f"there is no process {wire_id}", NotFound):
        return workflows.get(session, tenant(), number)
