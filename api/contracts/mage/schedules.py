"""`/api/pipeline_schedules`: triggers."""

from collections import Counter
from typing import Any

from sqlalchemy.orm import Session

from api.contracts.mage import mapping, requests, responses
from api.contracts.mage.mapping import ScheduleView
from api.contracts.mage.surface import blueprint
from api.contracts.mage.vocabulary import INITIAL
from api.toolkit import hidden_params, paging
from api.toolkit.context import caller, must_lend, tenant, transaction
from orchestrator import runs, schedules, workflows
from orchestrator.access.permissions import Verb
from orchestrator.models import Schedule
from orchestrator.monitoring import run_counts
from orchestrator.schedules import NewSchedule, ScheduleFilter

_BODY = "/pipeline_schedule"


@blueprint.route("/api/pipeline_schedules", resources="schedules")
@blueprint.arguments(requests.ScheduleQuery, location="query")
@blueprint.response(200, responses.Schedules)
def list_schedule(query: dict[str, Any]) -> dict[str, Any]:
    """List triggers, the newest first"""
    return _page(query, query.get("pipeline_uuid"))


@blueprint.route("/api/pipelines/<uuid>/pipeline_schedules", resources="schedules")
@blueprint.arguments(requests.ScheduleQuery, location="query")
@blueprint.response(200, responses.Schedules)
def list_pipeline_schedule(query: dict[str, Any], uuid: str) -> dict[str, Any]:
    """List the triggers of a pipeline, the newest first"""
    with transaction() as session:
        workflows.get(session, tenant(), uuid)
    return _page(query, uuid)


@blueprint.route(
    "/api/pipelines/<uuid>/pipeline_schedules", methods=["POST"], resources="schedules"
)
@blueprint.arguments(requests.ScheduleBody)
@blueprint.response(200, responses.OneSchedule)
def make_schedule(body: dict[str, Any], uuid: str) -> dict[str, Any]:
    """Make a trigger of a pipeline

    It is inactive unless `status` says else, and of type `api` unless it has an interval.
    """
    with transaction() as session, mapping.mistakes_below(_BODY):
        now = schedules.database_now(session)
        fields = mapping.schedule_fields(body["pipeline_schedule"], None, now)
        new = {"active": False, "created_by": caller().submitter, **fields}
        row = schedules.create_schedule(session, tenant(), NewSchedule(workflow=uuid, **new))
        make_initial_run(session, row)
    return _one(row)


@blueprint.route("/api/pipeline_schedules/<pk>", resources="schedules")
@blueprint.response(200, responses.OneSchedule)
def show_schedule(pk: str) -> dict[str, Any]:
    """Get a trigger"""
    with transaction() as session:
        return _one(schedules.get_schedule(session, tenant(), mapping.parse_id(pk)))


@blueprint.route("/api/pipeline_schedules/<pk>", methods=["PUT"], resources="schedules")
@blueprint.arguments(requests.ScheduleBody)
@blueprint.response(200, responses.OneSchedule)
def put_schedule(body: dict[str, Any], pk: str) -> dict[str, Any]:
    """Change a trigger; what is not given stays

    `rotate_token` gives it another token.
    """
    change, number = body["pipeline_schedule"], mapping.parse_id(pk)
    with transaction() as session, mapping.mistakes_below(_BODY):
        row = schedules.get_schedule(session, tenant(), number, lock=True)
        must_lend(row.run_as, "schedules")
        fields = mapping.schedule_fields(change, row, schedules.database_now(session))
        row = schedules.change_schedule(session, tenant(), number, **fields)
        if change["rotate_token"]:
            row = schedules.rotate_token(session, tenant(), number)
        make_initial_run(session, row)
    return _one(row)


@blueprint.route("/api/pipeline_schedules/<pk>", methods=["DELETE"], resources="schedules")
@blueprint.response(200, responses.OneSchedule)
def delete_schedule(pk: str) -> dict[str, Any]:
    """Delete a trigger; its runs stay"""
    with transaction() as session:
        row = schedules.get_schedule(session, tenant(), mapping.parse_id(pk), lock=True)
        must_lend(row.run_as, "schedules")
        return _one(schedules.delete_schedule(session, tenant(), row.id))


def make_initial_run(session: Session, row: Schedule) -> None:
    """Let an active trigger whose settings say so run for the instant before now, too."""
    if row.settings.get(INITIAL):
        schedules.fire_latest(session, row)


def _page(query: dict[str, Any], workflow: str | None) -> dict[str, Any]:
    limit, offset = query["limit"], query["offset"]
    active = {"active": True, "inactive": False}.get(query.get("status", ""))
    matching = ScheduleFilter(workflow=workflow, active=active)
    part = paging.OffsetPage(offset, limit, matching)
    (before,) = part.after or (None,)
    with transaction() as session:
        rows = schedules.page_of_schedules(
            session, tenant(), matching, before=before, limit=limit + 1, offset=part.skip
        )
        count = part.total
        if count is None:
            count = schedules.count_schedules(session, tenant(), matching)
        part.end([(row.id,) for row in rows[:limit]], count)
        ids = [row.id for row in rows[:limit] if caller().may("runs", Verb.READ)]
        last_runs = runs.last_of_schedules(session, ids)
        counts = run_counts.counts_of_schedules(session, tenant(), ids)
    hidden_params.read_of_workflows(rows[:limit])
    views = [
        ScheduleView(row, last_runs.get(row.id), counts.get(row.id, Counter()))
        for row in rows[:limit]
    ]
    return {"pipeline_schedules": views, "metadata": {"count": count, "next": len(rows) > limit}}


def _one(row: Schedule) -> dict[str, Any]:
    return {"pipeline_schedule": ScheduleView(row), "metadata": None}
