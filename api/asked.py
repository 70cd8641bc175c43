"""What the native API is asked: bodies, queries and headers, and what is right in them."""

from datetime import timedelta
from typing import Any

from marshmallow import RAISE, Schema, ValidationError, fields, post_load, validate

from api import receivers, repeats
from api.context import settings
from api.problems import UNKNOWN
from api.schemas import Duration, Timestamp
from orchestrator.reruns import As, Mode
from orchestrator.states import RunState


class Strict(Schema):
    """A body or query in which an unknown member is a mistake."""

    class Meta:
        unknown = RAISE

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        known = sorted(field.data_key or name for name, field in self.load_fields.items())
        told = f"{UNKNOWN}; there are {', '.join(known)}" if known else f"{UNKNOWN}; there are none"
        self.error_messages = {**self.error_messages, "unknown": told}


def longer_than_nothing(duration: timedelta) -> None:
    """Raises ValidationError for a duration of nothing."""
    if not duration:
        raise ValidationError("it must be longer than nothing")


def _priority(**options: Any) -> fields.Integer:
    return fields.Integer(strict=True, validate=validate.Range(0, 9), **options)


def _tags() -> fields.List[str]:
    each = fields.String(validate=validate.Length(1, 100))
    return fields.List(each, validate=validate.Length(max=50))


class NotificationsAsked(Strict):
    """Whom to tell about this run, besides the tenant's webhooks."""

    events = receivers.event_types(required=True)
    mail = receivers.mail_addresses()
    webhooks = receivers.urls()


class RunAsked(Strict):
    """What to run."""

    workflow = fields.String(required=True, validate=validate.Length(1, 100))
    version = fields.Integer(strict=True, validate=validate.Range(1, 2**31 - 1), allow_none=True)
    params = fields.Dict(keys=fields.String())
    priority = _priority(allow_none=True)
    run_at = Timestamp(allow_none=True)
    tags = _tags()
    reason = fields.String(validate=validate.Length(max=1000), allow_none=True)
    timeout = Duration(validate=longer_than_nothing, allow_none=True)
    sla = Duration(validate=longer_than_nothing, allow_none=True)
    start = receivers.boolean("false: held until it is started")
    concurrency_key = fields.String(
        validate=validate.Length(1, 200),
        allow_none=True,
        metadata={"description": "one run of the workflow at a time may have it"},
    )
    name = fields.String(validate=validate.Length(max=200), allow_none=True)
    description = fields.String(validate=validate.Length(max=10_000), allow_none=True)
    run_as = fields.String(validate=validate.Length(1, 200), allow_none=True)
    environment = fields.String(validate=validate.Length(1, 100), allow_none=True)
    annotations = fields.Dict(keys=fields.String(), allow_none=True)
    notifications = fields.Nested(NotificationsAsked, allow_none=True)


class Keyed(Schema):
    """The same key and body give the same run however often they are sent."""

    idempotency_key = fields.String(
        data_key="Idempotency-Key",
        validate=[
            validate.Length(1, 255),
            validate.Predicate("isprintable", error="not printable"),
        ],
    )

    @post_load
    def _protect(self, data: dict[str, Any], **_: Any) -> dict[str, Any]:
        if data:
            repeats.allow()
        return data


class RunChange(Strict):
    """What may be changed of a run."""

    priority = _priority()
    tags = _tags()


class StartAsked(Strict):
    """Nothing: the run starts as it was submitted."""


class CancelAsked(Strict):
    """How to stop a run; `force` kills at once, `grace` is what running steps get."""

    reason = fields.String(validate=validate.Length(max=1000), allow_none=True)
    force = receivers.boolean(load_default=False)
    grace = Duration()


def grace_of(body: dict[str, Any]) -> timedelta:
    """What running steps get when a cancel is asked for so."""
    grace: timedelta = body.get("grace", settings().cancel_grace)
    return timedelta(0) if body["force"] else grace


class RetryAsked(Strict):
    """What to run again."""

    mode = fields.Enum(Mode, by_value=True, load_default=Mode.FROM_FAILED)
    step = fields.String()
    where = fields.Enum(As, by_value=True, load_default=As.SAME, data_key="as")
    params = fields.Dict(keys=fields.String(), allow_none=True)
    priority = _priority(allow_none=True)
    reason = fields.String(validate=validate.Length(max=1000), allow_none=True)


class RestartAsked(Strict):
    """With what a step is run again."""

    params = fields.Dict(keys=fields.String(), allow_none=True)
    priority = _priority(allow_none=True)
    reason = fields.String(validate=validate.Length(max=1000), allow_none=True)


class Page(Strict):
    """Which part of a list."""

    cursor = fields.String()
    limit = fields.Integer(load_default=50, validate=validate.Range(1, 200))


class Wait(Strict):
    """How many seconds to hold the answer until the run has ended."""

    wait = fields.Float(load_default=0, validate=validate.Range(0, 60))


SORTS = ("-created_at", "created_at", "-priority", "priority")


class RunChoice(Strict):
    """Which runs; several values of one mean any of them, several tags mean all of them."""

    workflow = fields.List(fields.String())
    state = fields.List(fields.Enum(RunState, by_value=True))
    tag = fields.List(fields.String())
    priority = fields.List(fields.Integer(validate=validate.Range(0, 9)))
    trigger = fields.List(fields.String())
    schedule_id = fields.UUID()
    backfill_id = fields.UUID()
    created_after = Timestamp()
    created_before = Timestamp()


class RunFilter(RunChoice, Page):
    """Which runs; a repeated filter means any of its values, repeated tags mean all of them."""

    sort = fields.String(load_default=SORTS[0], validate=validate.OneOf(SORTS))
