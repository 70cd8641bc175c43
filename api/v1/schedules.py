"""`/api/v1/schedules`: start runs by time, by a token's URL, or after other runs."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any
from uuid import UUID

from flask import request, url_for
from marshmallow import EXCLUDE, RAISE, fields, validate
from sqlalchemy.orm import Session

from api.capacity import gate
from api.capacity.shares import Party
from api.toolkit import hidden_params, request_guards
from api.toolkit.blueprints import Blueprint, Created, created
from api.toolkit.context import (
    caller,
    must_lend,
    services,
    settings,
    tenant,
    transaction,
    trigger_transaction,
)
from api.toolkit.fields import (
    BoundedDict,
    BoundedList,
    Duration,
    Empty,
    IdempotencyHeaders,
    PageQuery,
    StrictSchema,
    Timestamp,
    positive_duration,
)
from api.toolkit.wire import WireSchema, columns, computed
from api.v1.requests import PRIORITY, TAGS, VERSION
from api.v1.responses import RunSchema, current_run
from orchestrator import schedules
from orchestrator.access import signing
from orchestrator.access.permissions import Verb
from orchestrator.models import Firing, Overlap, Schedule, ScheduleType, Trigger
from orchestrator.schedules import TriggerRequest
from orchestrator.spec.cron import CatchUp

blueprint = Blueprint("schedules", __name__, url_prefix="/schedules", description="Schedules")
_TRIGGER_BY_TOKEN = "schedules.trigger_by_token"


def _text(max_length: int, **options: Any) -> fields.String:
    return fields.String(validate=validate.Length(1, max_length), **options)


class ScheduleChangeRequest(StrictSchema):
    """The fields of a schedule that can be changed."""

    name = _text(200)
    description = _text(2000, allow_none=True)
    version = VERSION
    cron = _text(200)
    every = Duration()
    at = Timestamp(default_timezone=None)
    after_workflow = _text(100)
    after_states = BoundedList(fields.String(), validate=validate.Length(max=10))
    timezone = _text(100)
    jitter = Duration(allow_none=True)
    start_at = Timestamp(allow_none=True, default_timezone=None)
    end_at = Timestamp(allow_none=True, default_timezone=None)
    overlap = fields.Enum(Overlap, by_value=True)
    catch_up = fields.Enum(CatchUp, by_value=True)
    active = fields.Boolean(truthy={True}, falsy={False})
    params = BoundedDict(keys=fields.String())
    priority = PRIORITY
    sla = Duration(allow_none=True)
    timeout = Duration(validate=positive_duration, allow_none=True)
    run_as = _text(200, allow_none=True)
    tags = TAGS


class ScheduleRequest(ScheduleChangeRequest):
    """A schedule to create."""

    workflow = _text(100, required=True)
    type = fields.Enum(ScheduleType, by_value=True, required=True)


class ScheduleListQuery(PageQuery):
    """Filters and page of a list of schedules."""

    workflow = fields.String()
    type = fields.Enum(ScheduleType, by_value=True)
    active = fields.Boolean()


class PreviewQuery(StrictSchema):
    """How many of the next instants to list."""

    n = fields.Integer(load_default=10, validate=validate.Range(1, 1000))


def _token(schedule: Schedule) -> str | None:
    """The token of a schedule of type api, for callers that may use it."""
    if schedule.type != ScheduleType.API or not caller().may("schedules", Verb.CHANGE):
        return None
    return signing.trigger_token(services().secret_key, schedule.id, schedule.token_number)


def _url(schedule: Schedule) -> str | None:
    if (token := _token(schedule)) is None:
        return None
    return url_for(_TRIGGER_BY_TOKEN, schedule_id=schedule.id, token=token, _external=True)


class ScheduleSchema(WireSchema):
    """A rule that starts runs of a workflow."""

    class Meta:
        include = columns(
            Schedule,
            "id number workflow version name description type cron every at after_workflow "
            "after_states timezone jitter start_at end_at overlap catch_up active params priority "
            "sla timeout run_as tags next_at last_at created_at updated_at token url",
            start_at="the first moment that counts",
            end_at="the first that does not",
            timeout="of each of its runs",
            params=hidden_params.workflow_field(),
            token=computed(fields.String, _token, "of type api, not to viewers", allow_none=True),
            url=computed(fields.String, _url, "POST here, without a key", allow_none=True),
        )


class InstantsSchema(WireSchema):
    """The next instants."""

    items = fields.List(Timestamp())


class FiringSchema(WireSchema):
    """The outcome of one instant or event."""

    class Meta:
        include = columns(Firing, "id due_at outcome detail run_id source_run_id created_at")


@blueprint.route("", methods=["POST"])
@blueprint.arguments(ScheduleRequest)
@blueprint.response(201, ScheduleSchema)
def create(body: dict[str, Any]) -> Created:
    """Make a schedule

    `type` says what starts it: `cron` (five fields or @hourly …, read in `timezone`), `interval`
    (`every`), `once` (`at`), `event` (the end of runs of `after_workflow`) or `api` (a POST to the
    `url` in the answer).
    """
    must_lend(body.get("run_as"), "schedules")
    with transaction() as session:
        new = schedules.NewSchedule(**body, created_by=caller().submitter)
        schedule = schedules.create_schedule(session, tenant(), new)
    return created(schedule, "schedules.show", schedule_id=schedule.id)


@blueprint.route("")
@blueprint.paginated(ScheduleSchema, "id", UUID, bound="before", query=ScheduleListQuery)
def page(query: dict[str, Any]) -> Sequence[Schedule]:
    """List schedules, the newest first"""
    before, limit = query.pop("before", None), query.pop("limit")
    where = schedules.ScheduleFilter(**query)
    with transaction() as session:
        rows = schedules.page_of_schedules(session, tenant(), where, before=before, limit=limit)
    hidden_params.read_of_workflows(rows)
    return rows


@blueprint.route("/<uuid:schedule_id>")
@blueprint.response(200, ScheduleSchema)
def show(schedule_id: UUID) -> Schedule:
    """Get a schedule"""
    with transaction() as session:
        return schedules.get_schedule(session, tenant(), schedule_id)


@blueprint.route("/<uuid:schedule_id>", methods=["PATCH"])
@blueprint.arguments(ScheduleChangeRequest)
@blueprint.response(200, ScheduleSchema)
def change(body: dict[str, Any], schedule_id: UUID) -> Schedule:
    """Change, start or stop a schedule

    Another rule counts from now on. What an inactive schedule would have fired is not caught up.
    """
    must_lend(body.get("run_as"), "schedules")
    with transaction() as session:
        _check_lent(session, schedule_id)
        return schedules.change_schedule(session, tenant(), schedule_id, **body)


@blueprint.route("/<uuid:schedule_id>", methods=["DELETE"])
@blueprint.response(204)
def delete(schedule_id: UUID) -> None:
    """Delete a schedule with its firings and backfills; its runs stay"""
    with transaction() as session:
        _check_lent(session, schedule_id)
        schedules.delete_schedule(session, tenant(), schedule_id)


@blueprint.route("/<uuid:schedule_id>/preview")
@blueprint.arguments(PreviewQuery, location="query", unknown=RAISE)
@blueprint.response(200, InstantsSchema)
def preview(query: dict[str, Any], schedule_id: UUID) -> dict[str, Any]:
    """List the next instants of a schedule, without their jitter, whether it is active or not"""
    with transaction() as session:
        return {"items": schedules.preview_instants(session, tenant(), schedule_id, query["n"])}


@blueprint.route("/<uuid:schedule_id>/firings")
@blueprint.paginated(FiringSchema, "id", int, bound="before")
def firings(query: dict[str, Any], schedule_id: UUID) -> Sequence[Firing]:
    """List the outcomes of a schedule's instants and events, the newest first"""
    with transaction() as session:
        schedule = schedules.get_schedule(session, tenant(), schedule_id)
        return schedules.firings(session, schedule, **query)


@blueprint.route("/<uuid:schedule_id>/rotate-token", methods=["POST"])
@blueprint.arguments(Empty, required=False)
@blueprint.response(200, ScheduleSchema)
def rotate_token(body: dict[str, Any], schedule_id: UUID) -> Schedule:
    """Give a schedule of type api another token; the old one is of no use from then on"""
    with transaction() as session:
        _check_lent(session, schedule_id)
        return schedules.rotate_token(session, tenant(), schedule_id)


def _check_lent(session: Session, schedule_id: UUID) -> None:
    """Raises Forbidden if the runs of a schedule have rights that the caller may not lend."""
    schedule = schedules.get_schedule(session, tenant(), schedule_id, lock=True)
    must_lend(schedule.run_as, "schedules")


_PAYLOAD_SCHEMA = {
    "type": "object",
    "properties": {"variables": {"type": "object"}},
    "additionalProperties": True,
}
_PAYLOAD = {"content": {"application/json": {"schema": _PAYLOAD_SCHEMA}}}


@blueprint.route("/<uuid:schedule_id>/trigger", methods=["POST"])
@blueprint.doc(requestBody=_PAYLOAD)
@blueprint.arguments(IdempotencyHeaders, location="headers", unknown=EXCLUDE)
@blueprint.response(201, RunSchema)
def trigger(headers: dict[str, Any], schedule_id: UUID) -> Created:
    """Run a schedule now, whatever its type and whether it is active or not

    `variables` go over the schedule's parameters; whatever else the body has is kept with the run
    as `event_variables`. With the header `Idempotency-Key` the same request gives the same run.
    """
    trigger_request = TriggerRequest(submitted_by=caller().submitter, payload=_payload(), **headers)
    return _trigger(transaction(), tenant(), schedule_id, trigger_request)


@blueprint.route("/<uuid:schedule_id>/trigger/<token>", methods=["POST"])
@blueprint.doc(requestBody=_PAYLOAD, security=[])
@blueprint.arguments(IdempotencyHeaders, location="headers", unknown=EXCLUDE)
@blueprint.response(201, RunSchema)
def trigger_by_token(headers: dict[str, Any], schedule_id: UUID, token: str) -> Created:
    """Run an active schedule of type api

    The token is the only credential. The body is that of a trigger with a key.
    """
    with services().unscoped_database.transaction() as session:
        schedule = schedules.schedule_of_token(session, services().secret_key, schedule_id, token)
    gate.identify(Party(schedule.tenant_id, schedule.id))
    request_guards.check_json()
    trigger_request = TriggerRequest(
        trigger=Trigger.API, submitted_by="trigger", payload=_payload(), **headers
    )
    opened = trigger_transaction(schedule)
    return _trigger(opened, schedule.tenant_id, schedule_id, trigger_request)


def has_trigger_token() -> bool:
    """Whether the request is authenticated by the token of a schedule instead of a key."""
    return request.endpoint == _TRIGGER_BY_TOKEN


def _payload() -> schedules.TriggerPayload:
    return schedules.parse_payload(request.get_json() if request.get_data(cache=True) else {})


def _trigger(
    opened: AbstractContextManager[Session],
    tenant_id: UUID,
    schedule_id: UUID,
    trigger_request: TriggerRequest,
) -> Created:
    options = schedules.RunOptions(settings().window, settings().cancel_grace)
    with opened as session:
        run, is_new = schedules.trigger_now(
            session, tenant_id, schedule_id, trigger_request, options
        )
    view = current_run(tenant_id, run.id)
    return created(view, "runs.show", replayed=not is_new, run_id=run.id)
