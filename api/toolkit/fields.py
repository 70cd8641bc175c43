"""Fields of requests and responses."""

import functools
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Any

from marshmallow import Schema, ValidationError, fields, validate

from api.toolkit.context import settings
from config.settings import PREFIX
from orchestrator.db.outbox import SUBSCRIBABLE_EVENTS
from orchestrator.notifications import targets
from orchestrator.spec.durations import format_duration, parse_duration


class ResponseSchema(Schema):
    """A row as the API shows it.

    Its fields say what the documentation has; the row is read by attribute, because marshmallow's
    general way took more time than everything else in the answer to a poll.
    """

    def dump(self, obj: Any, *, many: bool | None = None) -> Any:
        """The row, or the rows, as JSON's types."""
        if self.many if many is None else many:
            return [self._one(each) for each in obj]
        return self._one(obj)

    def _one(self, row: Any) -> dict[str, Any]:
        read = row.get if isinstance(row, dict) else functools.partial(getattr, row)
        return {
            field.data_key or name: _seconds(row)
            if isinstance(field, Seconds)
            else _plain(field, read(field.attribute or name))
            for name, field in self.dump_fields.items()
        }


class Seconds(fields.Float):
    """How long a row took, or has taken so far."""


def _plain(field: fields.Field[Any], value: Any) -> Any:
    if value is None or isinstance(value, str | int):
        return value
    return field._serialize(value, None, None)


class Timestamp(fields.AwareDateTime):
    """RFC 3339 in UTC with microseconds."""

    default_error_messages = {  # noqa: RUF012 - marshmallow's own way
        "invalid": "not a time; write it as in 2027-01-31T09:00:00Z or 2027-01-31T09:00:00+01:00",
        "invalid_awareness": "without an offset; write it as in 2027-01-31T09:00:00+01:00",
    }

    def __init__(self, *, default_timezone: tzinfo | None = UTC, **options: Any) -> None:
        super().__init__(format="iso", default_timezone=default_timezone, **options)

    def _serialize(self, value: datetime | None, *_: Any, **__: Any) -> str | None:
        if value is None:
            return None
        return value.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")

    def _deserialize(self, value: Any, *given: Any, **more: Any) -> datetime:
        read: datetime = super()._deserialize(value, *given, **more)
        try:
            return read.astimezone(UTC)
        except OverflowError:
            raise ValidationError("outside of the years 1 to 9999") from None


class Duration(fields.Field[timedelta]):
    """`6`, `6s`, `500ms`, `2m` or `1h30m`."""

    def _serialize(self, value: timedelta | None, *_: Any, **__: Any) -> str | None:
        return None if value is None else format_duration(value)

    def _deserialize(self, value: Any, *_: Any, **__: Any) -> timedelta:
        try:
            return parse_duration(value)
        except ValueError as error:
            raise ValidationError(str(error)) from None


def _seconds(row: Any) -> float | None:
    """How long it took, or has taken so far."""
    if row.started_at is None:
        return None
    end: datetime = row.finished_at or datetime.now(UTC)
    seconds: float = (end - row.started_at).total_seconds()
    return round(seconds, 6)


_MOST = 20  # of one list


def event_types(**options: Any) -> fields.List[str]:
    """Types of events that somebody can be told about."""
    names = sorted(SUBSCRIBABLE_EVENTS)
    each = fields.String(
        validate=validate.OneOf(names, error=f"unknown; there are {', '.join(names)}")
    )
    return fields.List(each, validate=[validate.Length(1, _MOST), _each_once], **options)


def webhook_urls() -> fields.List[str]:
    """Where a webhook of a run goes."""
    return _many(lambda url: targets.check_url(url, allow_private=_private()))


def mail_addresses(*, needs_server: bool = True) -> fields.List[str]:
    """Who gets mail about a run; refused where no mail server is set, if it needs one."""
    return _many(_read_mail if needs_server else targets.check_mail_address)


def boolean(about: str | None = None, **options: Any) -> fields.Raw:
    """true or false, and nothing that may mean one of them."""
    told = {"type": "boolean", **({"description": about} if about else {})}
    return fields.Raw(validate=_is_boolean, metadata=told, **options)


def _many(read: Callable[[str], object]) -> fields.List[str]:
    def check(text: str) -> None:
        try:
            read(text)
        except targets.TargetRefused as error:
            raise ValidationError(str(error)) from None

    each = fields.String(validate=check)
    return fields.List(each, validate=[validate.Length(max=_MOST), _each_once])


def _read_mail(address: str) -> None:
    if not settings().smtp_url:
        raise targets.TargetRefused(f"no mail is sent from here: {PREFIX}SMTP_URL is not set")
    targets.check_mail_address(address)


def _private() -> bool:
    return settings().allow_private_targets


def _each_once(values: Sequence[str]) -> None:
    if len(set(values)) < len(values):
        raise ValidationError("name each only once")


def _is_boolean(value: Any) -> None:
    if not isinstance(value, bool):
        raise ValidationError("true or false")
