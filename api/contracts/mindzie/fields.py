"""Fields of this API: enums in any case, times in several formats."""

import re
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

from marshmallow import EXCLUDE, ValidationError, fields

from api.toolkit.wire import CamelCase, WireSchema

_SECOND, _MICROSECOND = timedelta(seconds=1), timedelta(microseconds=1)
_BLANK_OFFSET = re.compile(r"(:\d\d(?:\.\d+)?) (\d\d:?\d\d)$")  # "+" decoded as a blank in a query
_INVALID = "not a time; write it as in 2026-04-02T08:00:00Z"


class RequestSchema(CamelCase):
    """A body or query; unknown members are ignored."""

    class Meta:
        unknown = EXCLUDE


class ResponseSchema(RequestSchema, WireSchema):
    """A response, documented like a request: it may get further members."""


class Word(fields.Field[str]):
    """One of the words, in any case."""

    def __init__(self, words: Iterable[str], **options: Any) -> None:
        self._words = {word.lower(): word for word in words}
        super().__init__(metadata={"type": "string", "enum": [*self._words.values()]}, **options)

    def _deserialize(self, value: Any, *_: Any, **__: Any) -> str:
        word = self._words.get(value.strip().lower()) if isinstance(value, str) else None
        if word is None:
            raise ValidationError(f"one of {', '.join(self._words.values())}")
        return word


class Moment(fields.Field[datetime]):
    """A time: written in UTC to the second, read in any ISO format, in UTC without an offset."""

    def __init__(self, description: str = "", **options: Any) -> None:
        details = {"description": description} if description else {}
        super().__init__(metadata={"type": "string", "format": "date-time", **details}, **options)

    def _serialize(self, value: datetime | None, *_: Any, **__: Any) -> str | None:
        return None if value is None else f"{value.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"

    def _deserialize(self, value: Any, *_: Any, **__: Any) -> datetime:
        return _parse(value)[0]


class Since(Moment):
    """The last microsecond before a time, as the filters exclude their bounds."""

    def _deserialize(self, value: Any, *_: Any, **__: Any) -> datetime:
        return _shift(_parse(value)[0], -_MICROSECOND)


class Until(Moment):
    """The first microsecond after the day, second or microsecond that is written."""

    def _deserialize(self, value: Any, *_: Any, **__: Any) -> datetime:
        return _shift(*_parse(value))


def _parse(value: Any) -> tuple[datetime, timedelta]:
    """A time, and its precision as it is written."""
    if not isinstance(value, str):
        raise ValidationError(_INVALID)
    text = _BLANK_OFFSET.sub(r"\1+\2", value.strip())
    try:
        parsed = datetime.fromisoformat(text)
        moment = parsed.replace(tzinfo=parsed.tzinfo or UTC).astimezone(UTC)
    except (ValueError, OverflowError):
        raise ValidationError(_INVALID) from None
    if ":" not in text and "T" not in text:
        return moment, timedelta(days=1)
    return moment, _MICROSECOND if parsed.microsecond else _SECOND


def _shift(moment: datetime, by: timedelta) -> datetime:
    try:
        return moment + by
    except OverflowError:
        return moment
