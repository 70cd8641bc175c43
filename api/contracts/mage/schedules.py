"""`/api/pipeline_schedules`: triggers."""

from typing import Any

from sqlalchemy.orm import Session

from api.contracts.mage import filters, mapping, requests, responses, schedule_mapping
from api.contracts.mage.surface import blueprint
from api.toolkit.context import caller, tenant, transaction
from orchestrator import runs, schedules, workflows
from orchestrator.errors import Invalid
from orchestrator.models import Role, Schedule
from orchestrator.monitoring import run_counts
from orchestrator.schedules import NewSchedule, ScheduleFilter
from orchestrator.states import RunState

_OPEN = (RunState.PENDING, RunState.QUEUED, RunState.RUNNING)


@blueprint.route("/api/pipeline_schedules")
@blueprint.arguments(requests.ScheduleQuery, location="query")
@blueprint.response(200, responses.Schedules)
def list_schedule(query: dict[str, Any]) -> dict[str, Any]:
    """List triggers, the newest first"""
    return _page(query, query.get("pipeline_uuid"))


@blueprint.route("/api/pipelines/<uuid>/pipeline_schedules")
@blueprint.arguments(requests.ScheduleQuery, location="query")
@blueprint.response(200, responses.Schedules)
def list_pipeline_schedule(query: dict[str, Any], uuid: str) -> dict[str, Any]:
    """List the triggers of a pipeline, the newest first"""
    with transaction() as session:
        workflows.get(session, tenant(), uuid)
    return _page(query, uuid)


@blueprint.route("/api/pipelines/<uuid>/pipeline_schedules", methods=["POST"])
@blueprint.arguments(requests.ScheduleAsked)
@blueprint.response(200, responses.OneSchedule)
def make_schedule(body: dict[str, Any], uuid: str) -> dict[str, Any]:
    """Make a trigger of a pipeline

    It is inactive unless `status` says else, and of type `api` unless it has an interval.
    """
    caller().must_be(Role.OPERATOR)
    with transaction() as session:
        given = schedule_mapping.changes(
            body["pipeline_schedule"], None, schedules.database_now(session)
        )
        new = {"active": False, "created_by": caller().submitter, **given}
        try:
            made = schedules.create_schedule(session, tenant(), NewSchedule(workflow=uuid, **new))
        except Invalid as error:
            raise schedule_mapping.placed(error) from None
    return _shown(made)


@blueprint.route("/api/pipeline_schedules/<pk>")
@blueprint.response(200, responses.OneSchedule)
def show_schedule(pk: str) -> dict[str, Any]:
    """Get a trigger"""
    with transaction() as session:
        return _shown(schedules.get_schedule(session, tenant(), filters.number(pk)))


@blueprint.route("/api/pipeline_schedules/<pk>", methods=["PUT"])
@blueprint.arguments(requests.ScheduleAsked)
@blueprint.response(200, responses.OneSchedule)
def put_schedule(body: dict[str, Any], pk: str) -> dict[str, Any]:
    """Change a trigger; what is not given stays

    `rotate_token` gives it another token.
    """
    caller().must_be(Role.OPERATOR)
    given, number = body["pipeline_schedule"], filters.number(pk)
    with transaction() as session:
        found = schedules.get_schedule(session, tenant(), number)
        changes = schedule_mapping.changes(given, found, schedules.database_now(session))
        try:
            found = schedules.change_schedule(session, tenant(), number, **changes)
        except Invalid as error:
            raise schedule_mapping.placed(error) from None
        if given["rotate_token"]:
            found = schedules.rotate_token(session, tenant(), number)
    return _shown(found)


@blueprint.route("/api/pipeline_schedules/<pk>", methods=["DELETE"])
@blueprint.response(200, responses.OneSchedule)
def delete_schedule(pk: str) -> dict[str, Any]:
    """Delete a trigger; its runs stay"""
    caller().must_be(Role.OPERATOR)
    with transaction() as session:
        return _shown(schedules.delete_schedule(session, tenant(), filters.number(pk)))


def _page(query: dict[str, Any], workflow: str | None) -> dict[str, Any]:
    limit, offset = query["limit"], query["offset"]
    active = {"active": True, "inactive": False}.get(query.get("status", ""))
    which = ScheduleFilter(workflow=workflow, active=active)
    with transaction() as session:
        found = schedules.page_of_schedules(
            session, tenant(), which, limit=limit + 1, offset=offset
        )
        count = schedules.count_schedules(session, tenant(), which)
        shown = _listed(session, found[:limit])
    return {"pipeline_schedules": shown, "metadata": {"count": count, "next": len(found) > limit}}


def _listed(session: Session, found: list[Schedule]) -> list[dict[str, Any]]:
    ids = [each.id for each in found]
    last = runs.last_of_schedules(session, ids)
    counted = run_counts.counts_of_schedules(session, tenant(), ids)
    return [
        {
            **mapping.schedule(each),
            "last_pipeline_run_status": mapping.status_of(last[each.id], each)
            if each.id in last
            else None,
            "pipeline_runs_count": sum(counted[each.id].values()),
            "pipeline_in_progress_runs_count": sum(counted[each.id][state] for state in _OPEN),
        }
        for each in found
    ]


def _shown(row: Schedule) -> dict[str, Any]:
    return {"pipeline_schedule": mapping.schedule(row), "metadata": None}
