"""The queries and bodies of this API, with pydantic's messages. Unknown members are ignored."""

from collections.abc import Sequence
from typing import Any

from marshmallow import EXCLUDE, Schema, ValidationError, fields, validate, validates_schema

from api.contracts.virtuousai.errors import (
    INTEGER,
    MISSING,
    MOMENT,
    OBJECT,
    STRING,
    TOO_LARGE,
    TOO_LONG,
    TOO_SHORT,
    TOO_SMALL,
    UUID,
    one_of,
)
from api.contracts.virtuousai.vocabulary import (
    ACTIVE,
    EVENT_NAMES,
    ORCHESTRATORS,
    STATES,
    TRIGGER_TYPES,
)
from api.toolkit.fields import Timestamp
from api.toolkit.wire import CamelCase
from orchestrator.runs import RetryMode

_MAX_OFFSET = 2**31 - 1


class _Request(Schema):
    class Meta:
        unknown = EXCLUDE

    error_messages = {"type": OBJECT}  # noqa: RUF012 - marshmallow's own way


class _Body(CamelCase, _Request):
    pass


def _messages(invalid: str) -> dict[str, Any]:
    return {"invalid": invalid, "null": invalid, "required": MISSING}


def _integer(default: int, least: int, most: int) -> fields.Integer:
    bounds = [
        validate.Range(min=least, error=TOO_SMALL),
        validate.Range(max=most, error=TOO_LARGE),
    ]
    return fields.Integer(load_default=default, validate=bounds, error_messages=_messages(INTEGER))


def _text(max_length: int, **options: Any) -> fields.String:
    bounds = [
        validate.Length(min=1, error=TOO_SHORT),
        validate.Length(max=max_length, error=TOO_LONG),
    ]
    return fields.String(validate=bounds, error_messages=_messages(STRING), **options)


def _word(words: Sequence[str], **options: Any) -> fields.String:
    message = one_of(words)
    check = validate.OneOf(words, error=message)
    return fields.String(validate=check, error_messages=_messages(message), **options)


def _object(**options: Any) -> fields.Dict:
    return fields.Dict(error_messages=_messages(OBJECT), **options)


class _Page(_Request):
    """Which part of a list."""

    limit = _integer(100, 0, 1000)
    offset = _integer(0, 0, _MAX_OFFSET)


class RunsQuery(_Page):
    """Which runs."""

    status = _word(STATES.words)


class AutomationsQuery(_Page):
    """Which automations; all of them are active."""

    status = _word(("draft", ACTIVE, "archived"))


class EventsQuery(_Request):
    """Which events; both instants are included."""

    event_type = _word(EVENT_NAMES)
    resource_type = fields.String()
    resource_id = fields.UUID(error_messages={"invalid_uuid": UUID})
    since = Timestamp(data_key="from", error_messages={"invalid": MOMENT})
    until = Timestamp(data_key="to", error_messages={"invalid": MOMENT})
    limit = _integer(100, 1, 100)
    offset = _integer(0, 0, _MAX_OFFSET)


class RetryBody(_Body):
    """What of a run is run again."""

    mode = _word([mode.value for mode in RetryMode], load_default=RetryMode.FROM_FAILED.value)
    step_key = fields.String(load_default=None, allow_none=True, error_messages=_messages(STRING))

    @validates_schema
    def _has_step(self, data: dict[str, Any], **_: Any) -> None:
        if data["mode"] == RetryMode.FROM_STEP and data["step_key"] is None:
            raise ValidationError("stepKey is required when mode is from_step", "stepKey")


class TriggerBody(_Body):
    """With what an automation is run."""

    input = _object(load_default=dict, allow_none=True)
    concurrency_key = _text(200, load_default=None, allow_none=True)


class AutomationBody(_Body):
    """Which automation to make."""

    name = _text(255, required=True)
    config = _object(required=True)
    description = fields.String(
        load_default=None,
        allow_none=True,
        validate=validate.Length(max=4000, error=TOO_LONG),
        error_messages=_messages(STRING),
    )
    orchestrator_type = _word(ORCHESTRATORS, load_default="dag")
    trigger_type = _word(TRIGGER_TYPES, load_default="manual")
    template_id = _text(255, load_default=None, allow_none=True)
