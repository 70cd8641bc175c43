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
        known = sorted(field.data_key or name for name, field in self.load_fields.items())
        told = (
            f"{UNKNOWN_ERROR}; there are {', '.join(known)}"
            if known
            else f"{UNKNOWN_ERROR}; there are none"
        )
        self.error_messages = {**self.error_messages, "unknown": told}


def positive_duration(duration: timedelta) -> None:
    """Raises ValidationError for a duration of nothing."""
    if not duration:
        raise ValidationError("it must be longer than nothing")


class IdempotencyHeaders(Schema):
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
            transient_retry.allow_retry()
        return data


class PageQuery(StrictSchema):
    """Which part of a list."""

    cursor = fields.String()
    limit = fields.Integer(load_default=50, validate=validate.Range(1, 200))


def name_field() -> fields.String:
    """What can be shown in one line."""
    return fields.String(validate=one_line(100), required=True)


def one_line(longest: int) -> list[validate.Validator]:
    return [
        validate.Length(1, longest),
        validate.Predicate("isprintable", error="not printable"),
    ]
