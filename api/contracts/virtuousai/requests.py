"""What it is asked: queries and bodies, and what is right in them. Unknown members are ignored."""

from collections.abc import Sequence
from typing import Any

from marshmallow import EXCLUDE, Schema, ValidationError, fields, validate, validates_schema

from api.contracts.virtuousai.error_messages import (
    AT_LEAST,
    AT_MOST,
    INTEGER,
    LONGER,
    MISSING,
    MOMENT,
    OBJECT,
    SHORTER,
    STRING,
    UUID,
    one_of,
)
from api.contracts.virtuousai.event_mapping import NAMES
from api.contracts.virtuousai.mapping import ORCHESTRATORS, STATUSES, TRIGGERS
from api.contracts.virtuousai.responses import camel
from api.toolkit.fields import Timestamp
from orchestrator.runs import RetryMode

_LARGEST = 2**31 - 1


class _Asked(Schema):
    """A query or body as this API reads it."""

    class Meta:
        unknown = EXCLUDE

    error_messages = {"type": OBJECT}  # noqa: RUF012 - marshmallow's own way


class _Body(_Asked):
    """Our names inside, its names outside."""

    def on_bind_field(self, field_name: str, field_obj: Any) -> None:
        field_obj.data_key = camel(field_name)


def _told(invalid: str) -> dict[str, Any]:
    return {"invalid": invalid, "null": invalid, "required": MISSING}


def _integer(default: int, least: int, most: int) -> fields.Integer:
    bounds = [
        validate.Range(min=least, error=AT_LEAST),
        validate.Range(max=most, error=AT_MOST),
    ]
    told = _told(INTEGER)
    return fields.Integer(load_default=default, validate=bounds, error_messages=told)


def _text(longest: int, **options: Any) -> fields.String:
    bounds = [
        validate.Length(min=1, error=LONGER),
        validate.Length(max=longest, error=SHORTER),
    ]
    return fields.String(validate=bounds, error_messages=_told(STRING), **options)


def _word(words: Sequence[str], **options: Any) -> fields.String:
    told = one_of(words)
    right = validate.OneOf(words, error=told)
    return fields.String(validate=right, error_messages=_told(told), **options)


def _object(**options: Any) -> fields.Dict:
    return fields.Dict(error_messages=_told(OBJECT), **options)


class Page(_Asked):
    """Which part of a list."""

    limit = _integer(100, 0, 1000)
    offset = _integer(0, 0, _LARGEST)


class RunsAsked(Page):
    """Which runs."""

    status = _word(STATUSES)


class AutomationsAsked(Page):
    """Which automations; those of this server are active as soon as they are there."""

    status = _word(("draft", "active", "archived"))


class EventsAsked(_Asked):
    """Which events; both instants are included."""

    event_type = _word(NAMES)
    resource_type = fields.String()
    resource_id = fields.UUID(error_messages={"invalid_uuid": UUID})
    since = Timestamp(data_key="from", error_messages={"invalid": MOMENT})
    until = Timestamp(data_key="to", error_messages={"invalid": MOMENT})
    limit = _integer(100, 1, 100)
    offset = _integer(0, 0, _LARGEST)


class RetryAsked(_Body):
    """What of a run is run again."""

    mode = _word([mode.value for mode in RetryMode], load_default=RetryMode.FROM_FAILED.value)
    step_key = fields.String(load_default=None, allow_none=True, error_messages=_told(STRING))

    @validates_schema
    def _has_step(self, data: dict[str, Any], **_: Any) -> None:
        if data["mode"] == RetryMode.FROM_STEP and data["step_key"] is None:
            raise ValidationError("stepKey is required when mode is from_step", "stepKey")


class TriggerAsked(_Body):
    """With what an automation is run."""

    input = _object(load_default=dict, allow_none=True)
    concurrency_key = _text(200, load_default=None, allow_none=True)


class AutomationAsked(_Body):
    """Which automation to make."""

    name = _text(255, required=True)
    config = _object(required=True)
    description = fields.String(
        load_default=None,
        allow_none=True,
        validate=validate.Length(max=4000, error=SHORTER),
        error_messages=_told(STRING),
    )
    orchestrator_type = _word(ORCHESTRATORS, load_default="dag")
    trigger_type = _word(TRIGGERS, load_default="manual")
    template_id = _text(255, load_default=None, allow_none=True)
