"""Request schemas that several modules of the native API use."""

from datetime import timedelta
from typing import Any

from marshmallow import fields, validate

from api.toolkit.context import settings
from api.toolkit.fields import (
    BoundedDict,
    BoundedList,
    Duration,
    PageQuery,
    StrictSchema,
    Timestamp,
    boolean,
    event_types,
    mail_addresses,
    positive_duration,
    webhook_urls,
)
from orchestrator.runs import RetryMode, RetryTarget
from orchestrator.states import RunState

PRIORITY = fields.Integer(strict=True, validate=validate.Range(0, 9), allow_none=True)
REASON = fields.String(validate=validate.Length(max=1000), allow_none=True)
VERSION = fields.Integer(strict=True, validate=validate.Range(1, 2**31 - 1), allow_none=True)
TAGS = BoundedList(
    fields.String(validate=validate.Length(1, 100)), validate=validate.Length(max=50)
)


class NotificationsRequest(StrictSchema):
    """Recipients of this run's events, besides the tenant's webhooks."""

    events = event_types(required=True)
    mail = mail_addresses()
    webhooks = webhook_urls()


class RunRequest(StrictSchema):
    """A run to submit."""

    workflow = fields.String(required=True, validate=validate.Length(1, 100))
    version = VERSION
    params = BoundedDict(keys=fields.String())
    priority = PRIORITY
    run_at = Timestamp(allow_none=True)
    tags = TAGS
    reason = REASON
    timeout = Duration(validate=positive_duration, allow_none=True)
    sla = Duration(validate=positive_duration, allow_none=True)
    start = boolean("false: held until it is started")
    concurrency_key = fields.String(
        validate=validate.Length(1, 200),
        allow_none=True,
        metadata={"description": "one run of the workflow at a time may have it"},
    )
    name = fields.String(validate=validate.Length(max=200), allow_none=True)
    description = fields.String(validate=validate.Length(max=10_000), allow_none=True)
    run_as = fields.String(validate=validate.Length(1, 200), allow_none=True)
    environment = fields.String(validate=validate.Length(1, 100), allow_none=True)
    annotations = BoundedDict(keys=fields.String(), allow_none=True)
    notifications = fields.Nested(NotificationsRequest, allow_none=True)


class RunChangeRequest(StrictSchema):
    """The fields of a run that can be changed."""

    priority = fields.Integer(strict=True, validate=validate.Range(0, 9))
    tags = TAGS


class CancelRequest(StrictSchema):
    """How to stop a run: `force` kills its steps at once, `grace` lets them run on for so long."""

    reason = REASON
    force = boolean(load_default=False)
    grace = Duration()


def stop_options(body: dict[str, Any]) -> dict[str, Any]:
    """Why to stop, and how long running steps may take to, after this cancel request."""
    grace = timedelta(0) if body["force"] else body.get("grace", settings().cancel_grace)
    return {"grace": grace, "reason": body.get("reason")}


class RestartBody(StrictSchema):
    """The changes with which a step runs again."""

    params = BoundedDict(keys=fields.String(), allow_none=True)
    priority = PRIORITY
    reason = REASON


class RetryBody(RestartBody):
    """Which steps to run again, and with what."""

    mode = fields.Enum(RetryMode, by_value=True, load_default=RetryMode.FROM_FAILED)
    step = fields.String()
    where = fields.Enum(RetryTarget, by_value=True, load_default=RetryTarget.SAME, data_key="as")
    latest = fields.Boolean(
        load_default=False,
        metadata={"description": "whether a new run of all steps is of the latest version"},
    )


class WaitQuery(StrictSchema):
    """How many seconds to delay the response until the run has ended."""

    wait = fields.Float(load_default=0, validate=validate.Range(0, 60))


SORTS = ("-created_at", "created_at", "-priority", "priority")


class RunFilterQuery(StrictSchema):
    """Filters of runs: any of the values of a filter, all of the tags."""

    workflow = BoundedList(fields.String())
    state = BoundedList(fields.Enum(RunState, by_value=True))
    tag = BoundedList(fields.String())
    priority = BoundedList(fields.Integer(validate=validate.Range(0, 9)))
    trigger = BoundedList(fields.String())
    schedule_id = fields.UUID()
    backfill_id = fields.UUID()
    created_after = Timestamp()
    created_before = Timestamp()


class RunListQuery(RunFilterQuery, PageQuery):
    """Filters, order and page of a list of runs."""

    sort = fields.String(load_default=SORTS[0], validate=validate.OneOf(SORTS))
