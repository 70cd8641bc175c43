"""`/api/v1/backfills`: run all instants of a schedule in a range."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from marshmallow import fields, validate
from sqlalchemy.orm import Session

from api.toolkit import hidden_params
from api.toolkit.blueprints import Blueprint, Created, created
from api.toolkit.context import caller, tenant, transaction
from api.toolkit.fields import BoundedDict, PageQuery, StrictSchema, Timestamp
from api.toolkit.wire import WireSchema, columns
from api.v1.requests import PRIORITY, REASON, CancelRequest, stop_options
from api.v1.schedules import blueprint as schedules_blueprint
from orchestrator import schedules
from orchestrator.models import Backfill, BackfillState
from orchestrator.schedules import MAX_PARALLEL, NewBackfill

blueprint = Blueprint("backfills", __name__, url_prefix="/backfills", description="Backfills")


class BackfillRequest(StrictSchema):
    """A backfill of the instants from `start_at` on and before `end_at`."""

    start_at = Timestamp(required=True, default_timezone=None)
    end_at = Timestamp(required=True, default_timezone=None)
    parallel = fields.Integer(strict=True, load_default=1, validate=validate.Range(1, MAX_PARALLEL))
    params = BoundedDict(keys=fields.String())
    priority = PRIORITY
    reason = REASON


class BackfillListQuery(PageQuery):
    """Filters and page of a list of backfills."""

    schedule = fields.UUID()
    state = fields.Enum(BackfillState, by_value=True)


class BackfillProgressSchema(WireSchema):
    """Numbers of instants by state."""

    total = fields.Integer()
    submitted = fields.Integer()
    refused = fields.Integer(metadata={"description": "no run could be made for them"})
    waiting = fields.Integer()
    running = fields.Integer()
    succeeded = fields.Integer()
    failed = fields.Integer()
    cancelled = fields.Integer()


class BackfillSchema(WireSchema):
    """The instants of a schedule in a range, run as one object."""

    class Meta:
        include = columns(
            Backfill,
            "id number schedule_id workflow state start_at end_at parallel params priority reason "
            "submitted_by detail progress created_at finished_at",
            detail="why the last instant was refused",
            params=hidden_params.workflow_field(),
            progress=fields.Nested(BackfillProgressSchema),
        )


@schedules_blueprint.route("/<uuid:schedule_id>/backfills", methods=["POST"])
@schedules_blueprint.arguments(BackfillRequest)
@schedules_blueprint.response(201, BackfillSchema)
def begin_backfill(body: dict[str, Any], schedule_id: UUID) -> Created:
    """Run the instants of a range, so many at a time

    Also those before its start and while it was inactive. Its overlap policy does not apply.
    """
    with transaction() as session:
        new = NewBackfill(**body, submitted_by=caller().submitter)
        backfill = schedules.create_backfill(session, tenant(), schedule_id, new)
        (view,) = _with_progress(session, [backfill])
    return created(view, "backfills.show", backfill_id=backfill.id)


@schedules_blueprint.route("/<uuid:schedule_id>/backfills")
@schedules_blueprint.paginated(BackfillSchema, "id", UUID, bound="before")
def list_backfills(query: dict[str, Any], schedule_id: UUID) -> list[dict[str, Any]]:
    """List the backfills of a schedule, the newest first"""
    with transaction(snapshot=True) as session:
        schedules.get_schedule(session, tenant(), schedule_id)
        rows = schedules.page_of_backfills(session, tenant(), schedule_id=schedule_id, **query)
        return _with_progress(session, rows)


@blueprint.route("")
@blueprint.paginated(BackfillSchema, "id", UUID, bound="before", query=BackfillListQuery)
def page(query: dict[str, Any]) -> list[dict[str, Any]]:
    """List backfills, the newest first"""
    schedule_id = query.pop("schedule", None)
    with transaction(snapshot=True) as session:
        rows = schedules.page_of_backfills(session, tenant(), schedule_id=schedule_id, **query)
        return _with_progress(session, rows)


@blueprint.route("/<uuid:backfill_id>")
@blueprint.response(200, BackfillSchema)
def show(backfill_id: UUID) -> dict[str, Any]:
    """Get a backfill with its progress"""
    with transaction(snapshot=True) as session:
        backfill = schedules.get_backfill(session, tenant(), backfill_id)
        return _with_progress(session, [backfill])[0]


@blueprint.route("/<uuid:backfill_id>/cancel", methods=["POST"])
@blueprint.arguments(CancelRequest, required=False)
@blueprint.response(200, BackfillSchema)
def cancel(body: dict[str, Any], backfill_id: UUID) -> dict[str, Any]:
    """Submit no more runs, and cancel those that have not ended"""
    with transaction() as session:
        backfill = schedules.cancel_backfill(session, tenant(), backfill_id, **stop_options(body))
        return _with_progress(session, [backfill])[0]


def _with_progress(session: Session, backfills: Sequence[Backfill]) -> list[dict[str, Any]]:
    progress = schedules.backfill_progress(session, list(backfills))
    hidden_params.read_of_workflows(backfills)
    names = BackfillSchema().fields.keys() - {"progress"}
    return [
        {name: getattr(each, name) for name in names} | {"progress": progress[each.id]}
        for each in backfills
    ]
