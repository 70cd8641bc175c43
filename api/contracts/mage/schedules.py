"""`/api/pipeline_schedules`: triggers."""

from typing import Any

from sqlalchemy.orm import Session

from api.context import caller, tenant, transaction
from api.contracts.mage import asked, forms, rules, schemas, shapes
from api.contracts.mage.place import blueprint
from orchestrator import catalog, listing, schedules, tallies
from orchestrator.definitions import Role
from orchestrator.errors import Invalid
from orchestrator.schedule_models import Schedule
from orchestrator.schedules import NewSchedule, ScheduleFilter
from orchestrator.states import RunState

_OPEN = (RunState.PENDING, RunState.QUEUED, RunState.RUNNING)


@blueprint.route("/api/pipeline_schedules")
@blueprint.arguments(forms.ScheduleQuery, location="query")
@blueprint.response(200, schemas.MageSchedules)
def list_schedule(query: dict[str, Any]) -> dict[str, Any]:
    """List triggers, the newest first"""
    return _page(query, query.get("pipeline_uuid"))


@blueprint.route("/api/pipelines/<uuid>/pipeline_schedules")
@blueprint.arguments(forms.ScheduleQuery, location="query")
@blueprint.response(200, schemas.MageSchedules)
def list_pipeline_schedule(query: dict[str, Any], uuid: str) -> dict[str, Any]:
    """List the triggers of a pipeline, the newest first"""
    with transaction() as session:
        catalog.get(session, tenant(), uuid)
    return _page(query, uuid)


@blueprint.route("/api/pipelines/<uuid>/pipeline_schedules", methods=["POST"])
@blueprint.arguments(forms.MageScheduleAsked)
@blueprint.response(200, schemas.MageOneSchedule)
def make_schedule(body: dict[str, Any], uuid: str) -> dict[str, Any]:
    """Make a trigger of a pipeline

    It is inactive unless `status` says else, and of type `api` unless it has an interval.
    """
    caller().must_be(Role.OPERATOR)
    with transaction() as session:
        given = rules.changes(body["pipeline_schedule"], None, schedules.now(session))
        new = {"active": False, "created_by": caller().submitter, **given}
        try:
            made = schedules.create(session, tenant(), NewSchedule(workflow=uuid, **new))
        except Invalid as error:
            raise rules.placed(error) from None
    return _shown(made)


@blueprint.route("/api/pipeline_schedules/<pk>")
@blueprint.response(200, schemas.MageOneSchedule)
def show_schedule(pk: str) -> dict[str, Any]:
    """Get a trigger"""
    with transaction() as session:
        return _shown(schedules.get(session, tenant(), asked.number(pk)))


@blueprint.route("/api/pipeline_schedules/<pk>", methods=["PUT"])
@blueprint.arguments(forms.MageScheduleAsked)
@blueprint.response(200, schemas.MageOneSchedule)
def put_schedule(body: dict[str, Any], pk: str) -> dict[str, Any]:
    """Change a trigger; what is not given stays

    `rotate_token` gives it another token.
    """
    caller().must_be(Role.OPERATOR)
    given, number = body["pipeline_schedule"], asked.number(pk)
    with transaction() as session:
        found = schedules.get(session, tenant(), number)
        changes = rules.changes(given, found, schedules.now(session))
        try:
            found = schedules.change(session, tenant(), number, **changes)
        except Invalid as error:
            raise rules.placed(error) from None
        if given["rotate_token"]:
            found = schedules.rotate_token(session, tenant(), number)
    return _shown(found)


@blueprint.route("/api/pipeline_schedules/<pk>", methods=["DELETE"])
@blueprint.response(200, schemas.MageOneSchedule)
def delete_schedule(pk: str) -> dict[str, Any]:
    """Delete a trigger; its runs stay"""
    caller().must_be(Role.OPERATOR)
    with transaction() as session:
        return _shown(schedules.delete(session, tenant(), asked.number(pk)))


def _page(query: dict[str, Any], workflow: str | None) -> dict[str, Any]:
    limit, offset = query["limit"], query["offset"]
    active = {"active": True, "inactive": False}.get(query.get("status", ""))
    which = ScheduleFilter(workflow=workflow, active=active)
    with transaction() as session:
        found = schedules.page(session, tenant(), which, limit=limit + 1, offset=offset)
        count = schedules.count(session, tenant(), which)
        shown = _listed(session, found[:limit])
    return {"pipeline_schedules": shown, "metadata": {"count": count, "next": len(found) > limit}}


def _listed(session: Session, found: list[Schedule]) -> list[dict[str, Any]]:
    ids = [each.id for each in found]
    last = listing.last_of_schedules(session, ids)
    counted = tallies.of_schedules(session, tenant(), ids)
    return [
        {
            **shapes.schedule(each),
            "last_pipeline_run_status": shapes.status_of(last[each.id], each)
            if each.id in last
            else None,
            "pipeline_runs_count": sum(counted[each.id].values()),
            "pipeline_in_progress_runs_count": sum(counted[each.id][state] for state in _OPEN),
        }
        for each in found
    ]


def _shown(row: Schedule) -> dict[str, Any]:
    return {"pipeline_schedule": shapes.schedule(row), "metadata": None}
