"""`/api/v1/backfills`: ranges of a schedule's instants, run as one object."""

from typing import Any
from uuid import UUID

from flask import url_for
from marshmallow import RAISE, Schema, fields, validate

from api.toolkit import paging
from api.toolkit.blueprints import Blueprint
from api.toolkit.context import caller, tenant, transaction
from api.toolkit.fields import ResponseSchema, Timestamp
from api.toolkit.requests import PageQuery, StrictSchema
from api.v1.requests import CancelRequest, grace_of
from api.v1.schedules import blueprint as schedules_blueprint
from orchestrator import schedules
from orchestrator.models import Backfill, BackfillState, Role
from orchestrator.schedules import MAX_PARALLEL, NewBackfill

blueprint = Blueprint(
    "backfills", __name__, url_prefix="/api/v1/backfills", description="Backfills"
)


class BackfillAsked(StrictSchema):
    """The instants from `start_at` on and before `end_at`."""

    start_at = Timestamp(required=True, default_timezone=None)
    end_at = Timestamp(required=True, default_timezone=None)
    parallel = fields.Integer(strict=True, load_default=1, validate=validate.Range(1, MAX_PARALLEL))
    params = fields.Dict(keys=fields.String())
    priority = fields.Integer(strict=True, validate=validate.Range(0, 9), allow_none=True)
    reason = fields.String(validate=validate.Length(max=1000), allow_none=True)


class BackfillQuery(PageQuery):
    """Which backfills."""

    schedule = fields.UUID()
    state = fields.Enum(BackfillState, by_value=True)


class BackfillCancel(CancelRequest):
    """How to stop its runs."""


class BackfillProgress(Schema):
    """How many instants are in which condition."""

    total = fields.Integer()
    submitted = fields.Integer()
    refused = fields.Integer(metadata={"description": "no run could be made for them"})
    waiting = fields.Integer()
    running = fields.Integer()
    succeeded = fields.Integer()
    failed = fields.Integer()
    cancelled = fields.Integer()


class BackfillShown(ResponseSchema):
    """A range of a schedule's instants, run as one object."""

    id = fields.UUID()
    number = fields.Integer()
    schedule_id = fields.UUID()
    workflow = fields.String()
    state = fields.String()
    start_at = Timestamp()
    end_at = Timestamp()
    parallel = fields.Integer()
    params = fields.Dict()
    priority = fields.Integer(allow_none=True)
    reason = fields.String(allow_none=True)
    submitted_by = fields.String(allow_none=True)
    detail = fields.String(
        allow_none=True, metadata={"description": "why the last instant was refused"}
    )
    progress = fields.Nested(BackfillProgress)
    created_at = Timestamp()
    finished_at = Timestamp(allow_none=True)


class BackfillPage(Schema):
    """One page of backfills, the newest first."""

    items = fields.List(fields.Nested(BackfillShown))
    next_cursor = fields.String(allow_none=True)


@schedules_blueprint.route("/<uuid:schedule_id>/backfills", methods=["POST"])
@schedules_blueprint.arguments(BackfillAsked)
@schedules_blueprint.response(201, BackfillShown)
def begin_backfill(
    body: dict[str, Any], schedule_id: UUID
) -> tuple[dict[str, Any], int, dict[str, str]]:
    """Run the instants of a range, so many at a time

    Also those before the schedule began and while it was inactive; its overlap policy is not asked.
    """
    caller().must_be(Role.OPERATOR)
    with transaction() as session:
        new = NewBackfill(**body, submitted_by=caller().submitter)
        made = schedules.create_backfill(session, tenant(), schedule_id, new)
    address = {"Location": url_for("backfills.show", backfill_id=made.id)}
    return _shown([made])[0], 201, address


@schedules_blueprint.route("/<uuid:schedule_id>/backfills")
@schedules_blueprint.arguments(PageQuery, location="query", unknown=RAISE)
@schedules_blueprint.response(200, BackfillPage)
def list_backfills(query: dict[str, Any], schedule_id: UUID) -> dict[str, Any]:
    """List the backfills of a schedule, the newest first"""
    with transaction() as session:
        schedules.get_schedule(session, tenant(), schedule_id)
    return _page(query | {"schedule": schedule_id})


@blueprint.route("")
@blueprint.arguments(BackfillQuery, location="query", unknown=RAISE)
@blueprint.response(200, BackfillPage)
def page(query: dict[str, Any]) -> dict[str, Any]:
    """List backfills, the newest first"""
    return _page(query)


@blueprint.route("/<uuid:backfill_id>")
@blueprint.response(200, BackfillShown)
def show(backfill_id: UUID) -> dict[str, Any]:
    """Get a backfill with its progress"""
    with transaction() as session:
        found = schedules.get_backfill(session, tenant(), backfill_id)
    return _shown([found])[0]


@blueprint.route("/<uuid:backfill_id>/cancel", methods=["POST"])
@blueprint.arguments(BackfillCancel, required=False)
@blueprint.response(200, BackfillShown)
def cancel(body: dict[str, Any], backfill_id: UUID) -> dict[str, Any]:
    """Submit no more runs, and cancel those that have not ended"""
    caller().must_be(Role.OPERATOR)
    grace = grace_of(body)
    with transaction() as session:
        found = schedules.cancel_backfill(
            session, tenant(), backfill_id, grace=grace, reason=body.get("reason")
        )
    return _shown([found])[0]


def _page(query: dict[str, Any]) -> dict[str, Any]:
    (before,) = paging.decode(query.get("cursor"), UUID) or (None,)
    limit = query["limit"]
    which = {"schedule_id": query.get("schedule"), "state": query.get("state")}
    with transaction() as session:
        found = schedules.page_of_backfills(
            session, tenant(), **which, before=before, limit=limit + 1
        )
    shown = paging.page(found, limit, lambda last: (last.id,))
    return {**shown, "items": _shown(shown["items"])}


def _shown(found: list[Backfill]) -> list[dict[str, Any]]:
    with transaction() as session:
        progress = schedules.backfill_progress(session, found)
    names = set(BackfillShown().fields) - {"progress"}
    return [
        {name: getattr(each, name) for name in names} | {"progress": progress[each.id]}
        for each in found
    ]
