"""Request schemas that every surface may use."""

from datetime import timedelta
from typing import Any

from marshmallow import RAISE, Schema, ValidationError, fields, post_load, validate

from api.toolkit import transient_retry
from api.toolkit.problems import UNKNOWN_ERROR


class StrictSchema(Schema):
    """A body or query in which an unknown member is a mistake."""

    class Meta:
        unknown = RAISE

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        names = sorted(field.data_key or name for name, field in self.load_fields.items())
        message = f"{UNKNOWN_ERROR}; there are {', '.join(names) or 'none'}"
        self.error_messages = {**self.error_messages, "unknown": message}


class Empty(StrictSchema):
    """A body without members."""


def positive_duration(duration: timedelta) -> None:
    """Raises ValidationError for a duration of zero."""
    if not duration:
        raise ValidationError("it must be longer than nothing")


def one_line(max_length: int) -> list[validate.Validator]:
    """Validators of a text without line breaks and control characters."""
    return [
        validate.Length(1, max_length),
        validate.Predicate("isprintable", error="not printable"),
    ]


class IdempotencyHeaders(Schema):
    """Repeating the same key with the same body has no further effect."""

    idempotency_key = fields.String(data_key="Idempotency-Key", validate=one_line(255))

    @post_load
    def _allow_retry(self, data: dict[str, Any], **_: Any) -> dict[str, Any]:
        if data:
            transient_retry.allow_retry()
        return data


class PageQuery(StrictSchema):
    """Where a page starts and how many rows it has."""

    cursor = fields.String()
    limit = fields.Integer(load_default=50, validate=validate.Range(1, 200))


def name_field() -> fields.String:
    """A required name of one line."""
    return fields.String(validate=one_line(100), required=True)
