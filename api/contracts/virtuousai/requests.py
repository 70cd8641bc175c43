"""The queries and bodies of this API, with pydantic's messages. Unknown members are ignored."""

from collections.abc import Sequence
from functools import partial
from typing import Any

from marshmallow import EXCLUDE, Schema, ValidationError, fields, validate, validates_schema

from api.contracts.virtuousai import vocabulary
from api.contracts.virtuousai.errors import Message
from api.toolkit.fields import BoundedDict, Timestamp
from api.toolkit.wire import CamelCase
from orchestrator.runs import RetryMode

_MAX_OFFSET = 2**31 - 1


class _Request(Schema):
    class Meta:
        unknown = EXCLUDE

    error_messages = {"type": Message.DICT_TYPE}  # noqa: RUF012 - marshmallow's own way


def _messages(invalid: str) -> dict[str, Any]:
    return {"invalid": invalid, "null": invalid, "required": Message.MISSING}


def _integer(default: int | None, least: int, most: int, **options: Any) -> fields.Integer:
    bounds = [
        validate.Range(min=least, error=Message.GREATER_THAN_EQUAL),
        validate.Range(max=most, error=Message.LESS_THAN_EQUAL),
    ]
    messages = _messages(Message.INT_PARSING)
    return fields.Integer(load_default=default, validate=bounds, error_messages=messages, **options)


def _text(least: int | None, most: int | None, **options: Any) -> fields.String:
    bounds = [
        validate.Length(min=least, error=Message.STRING_TOO_SHORT),
        validate.Length(max=most, error=Message.STRING_TOO_LONG),
    ]
    return fields.String(validate=bounds, error_messages=_messages(Message.STRING_TYPE), **options)


def _word(words: Sequence[str], **options: Any) -> fields.String:
    *others, last = [f"'{word}'" for word in words]
    message = f"Input should be {', '.join(others)} or {last}"
    check = validate.OneOf(words, error=message)
    return fields.String(validate=check, error_messages=_messages(message), **options)


_object = partial(BoundedDict, error_messages=_messages(Message.DICT_TYPE))


class _Page(_Request):
    """Which part of a list."""

    limit = _integer(100, 0, 1000)
    offset = _integer(0, 0, _MAX_OFFSET)


class RunsQuery(_Page):
    """Which runs."""

    status = _word(vocabulary.STATES.words)


class AutomationsQuery(_Page):
    """Which automations; all of them are active."""

    status = _word(("draft", vocabulary.ACTIVE, "archived"))


class EventsQuery(_Request):
    """Which events; both instants are included."""

    event_type = _word(vocabulary.EVENT_NAMES)
    resource_type = fields.String()
    run_id = fields.UUID(
        data_key="resource_id", error_messages={"invalid_uuid": Message.UUID_PARSING}
    )
    since = Timestamp(data_key="from", error_messages={"invalid": Message.DATETIME_PARSING})
    until = Timestamp(data_key="to", error_messages={"invalid": Message.DATETIME_PARSING})
    limit = _integer(100, 1, 100)
    offset = _integer(0, 0, _MAX_OFFSET)


class RetryBody(CamelCase, _Request):
    """What of a run is run again."""

    mode = _word([mode.value for mode in RetryMode], load_default=RetryMode.FROM_FAILED.value)
    step_key = _text(None, None, load_default=None)

    @validates_schema
    def _has_step(self, data: dict[str, Any], **_: Any) -> None:
        if data["mode"] == RetryMode.FROM_STEP and data["step_key"] is None:
            raise ValidationError("stepKey is required when mode is from_step", "stepKey")


class TriggerBody(CamelCase, _Request):
    """With what an automation is run."""

    input = _object(load_default=dict, allow_none=True)
    concurrency_key = _text(1, 200, load_default=None)


class AutomationBody(CamelCase, _Request):
    """Which automation to make."""

    name = _text(1, 255, required=True)
    config = _object(required=True)
    description = _text(None, 4000, load_default=None)
    orchestrator_type = _word(("local", "dag"), load_default="dag")
    trigger_type = _word(vocabulary.TRIGGERS.words, load_default="manual")
    template_id = _text(1, 255, load_default=None)


class AutomationChange(AutomationBody):
    """The next version of an automation."""

    name = _text(1, 255)


class TokensQuery(_Request):
    """Which access tokens."""

    token_type = _word(vocabulary.TOKEN_TYPES, data_key="tokenType")
    with_revoked = fields.Boolean(
        load_default=False,
        data_key="includeRevoked",
        error_messages=_messages(Message.BOOL_PARSING),
    )
    limit = _integer(50, 1, 200)
    after = fields.UUID(data_key="cursor", error_messages={"invalid_uuid": Message.UUID_PARSING})


class TokenBody(CamelCase, _Request):
    """Which access token to make; without days it does not expire."""

    name = _text(1, 255, required=True)
    expires_in_days = _integer(None, 1, 365, allow_none=True)
