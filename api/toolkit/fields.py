"""Fields of requests and responses, and request schemas that every surface may use."""

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Any

from marshmallow import (
    RAISE,
    Schema,
    ValidationError,
    fields,
    missing,
    post_load,
    pre_load,
    validate,
)

from api.toolkit import transient_retry
from api.toolkit.context import settings
from api.toolkit.problems import UNKNOWN_ERROR
from config.settings import PREFIX
from orchestrator.db.outbox import SUBSCRIBABLE_EVENTS
from orchestrator.errors import MAX_MISTAKES
from orchestrator.notifications import targets, webhooks
from orchestrator.spec.durations import format_duration, parse_duration
from orchestrator.work_limits import take_step

MAX_ITEMS = 1000  # of a list without a limit of its own
MAX_MEMBERS = 10_000  # of an object of a caller's own names


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

    def _deserialize(self, value: Any, *args: Any, **kwargs: Any) -> datetime:
        time: datetime = super()._deserialize(value, *args, **kwargs)
        try:
            return time.astimezone(UTC)
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


class BoundedList(fields.List[Any]):
    """A list of a request: its length is checked before its items, and few mistakes are kept."""

    def _deserialize(self, value: Any, attr: Any, data: Any, **kwargs: Any) -> list[Any]:
        if not isinstance(value, list | tuple):
            raise self.make_error("invalid")
        lengths = [each for each in self.validators if isinstance(each, validate.Length)]
        for length in lengths if any(each.max for each in lengths) else (*lengths, _ITEMS):
            length(value)
        items: list[Any] = []
        messages: dict[int, Any] = {}
        for index, each in enumerate(value):
            take_step()
            try:
                items.append(self.inner.deserialize(each, **kwargs))
            except ValidationError as error:
                messages[index] = error.messages
            if len(messages) > MAX_MISTAKES:
                break
        if messages:
            raise ValidationError(messages)
        return items


class BoundedDict(fields.Dict):
    """An object of a request with names of the caller's own."""

    def _deserialize(self, value: Any, *args: Any, **kwargs: Any) -> Any:
        if isinstance(value, Mapping):
            _MEMBERS(value)
        return super()._deserialize(value, *args, **kwargs)  # type: ignore[no-untyped-call]


_ITEMS = validate.Length(max=MAX_ITEMS, error="at most {max} items are taken")
_MEMBERS = validate.Length(max=MAX_MEMBERS, error="at most {max} members are taken")


_MAX_ITEMS = 20  # of one list


def event_types(**options: Any) -> fields.List[str]:
    """Types of events that a webhook can subscribe to."""
    names = sorted(SUBSCRIBABLE_EVENTS)
    error = f"unknown; there are {', '.join(names)}"
    each = fields.String(validate=validate.OneOf(names, error=error))
    return BoundedList(each, validate=[validate.Length(1, _MAX_ITEMS), _check_distinct], **options)


def webhook_urls() -> fields.List[str]:
    """URLs that get the events of a run."""
    return _target_list(
        lambda url: webhooks.check_url_with_secrets(
            url, allow_private=settings().allow_private_targets
        )
    )


def mail_addresses(*, needs_server: bool = True) -> fields.List[str]:
    """Addresses that get mail about a run; with `needs_server` invalid without a mail server."""

    def check(address: str) -> None:
        if needs_server and not settings().smtp_url:
            raise targets.TargetRefused(f"no mail is sent from here: {PREFIX}SMTP_URL is not set")
        targets.check_mail_address(address)

    return _target_list(check)


def boolean(description: str | None = None, **options: Any) -> fields.Raw:
    """true or false, not the other values that marshmallow's Boolean converts."""
    metadata = {"type": "boolean", **({"description": description} if description else {})}
    return fields.Raw(validate=_check_boolean, metadata=metadata, **options)


def _target_list(check: Callable[[str], object]) -> fields.List[str]:
    """A list of distinct texts for which `check` raises no TargetRefused."""

    def validator(text: str) -> None:
        try:
            check(text)
        except targets.TargetRefused as error:
            raise ValidationError(str(error)) from None

    each = fields.String(validate=validator)
    return BoundedList(each, validate=[validate.Length(max=_MAX_ITEMS), _check_distinct])


def _check_distinct(values: Sequence[str]) -> None:
    if len(set(values)) < len(values):
        raise ValidationError("name each only once")


def _check_boolean(value: Any) -> None:
    if not isinstance(value, bool):
        raise ValidationError("true or false")


class StrictSchema(Schema):
    """A body or query in which an unknown member is a mistake."""

    class Meta:
        unknown = RAISE

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        names = sorted(field.data_key or name for name, field in self.load_fields.items())
        message = f"{UNKNOWN_ERROR}; there are {', '.join(names) or 'none'}"
        self.error_messages = {**self.error_messages, "unknown": message}
        self._too_many = f"members are too many; there are {', '.join(names) or 'none'}"
        # Passes over what is not there; marshmallow has each field deserialize it, to no effect.
        optional = (
            name
            for name, field in self.load_fields.items()
            if not field.required and field.load_default is missing
        )
        self.partial = self.partial or frozenset(optional) or None

    @pre_load
    def _check_members(self, data: Any, **_: Any) -> Any:
        """Raises ValidationError for so many unknown members that naming each takes too long."""
        if isinstance(data, Mapping) and len(data) > MAX_ITEMS:
            raise ValidationError(f"{len(data):,} {self._too_many}")
        return data


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
