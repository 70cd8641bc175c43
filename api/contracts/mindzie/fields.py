"""Fields of this API: names in camelCase, enums in any case, times in many forms."""

import re
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

from marshmallow import EXCLUDE, Schema, ValidationError, fields

_SECOND, _LEAST = timedelta(seconds=1), timedelta(microseconds=1)
_UNQUOTED = re.compile(r"(:\d\d(?:\.\d+)?) (\d\d:?\d\d)$")  # a plus that a query made a blank
_TOLD = "not a time; write it as in 2026-04-02T08:00:00Z"


class Camel(Schema):
    """Members are written `likeThis`; unknown ones are passed over."""

    class Meta:
        unknown = EXCLUDE

    def on_bind_field(self, field_name: str, field_obj: fields.Field[Any]) -> None:
        """Spell the field's name as JSON has it."""
        first, *rest = (field_obj.data_key or field_name).split("_")
        field_obj.data_key = first + "".join(word.capitalize() for word in rest)


def text(about: str, *, null: bool = False) -> fields.String:
    """A text, with what is to be known of it."""
    return fields.String(allow_none=null, metadata={"description": about})


class Word(fields.Field[str]):
    """One of a few words, in any case."""

    def __init__(self, words: Iterable[str], **options: Any) -> None:
        self._words = {word.lower(): word for word in words}
        super().__init__(metadata={"type": "string", "enum": [*self._words.values()]}, **options)

    def _deserialize(self, value: Any, *_: Any, **__: Any) -> str:
        found = self._words.get(value.strip().lower()) if isinstance(value, str) else None
        if found is None:
            raise ValidationError(f"one of {', '.join(self._words.values())}")
        return found


class Moment(fields.Field[datetime]):
    """A time: shown in UTC to the second, read in any ISO form; without a zone it is UTC."""

    def __init__(self, about: str = "", **options: Any) -> None:
        told = {"type": "string", "format": "date-time"}
        super().__init__(metadata=told | ({"description": about} if about else {}), **options)

    def _serialize(self, value: datetime | None, *_: Any, **__: Any) -> str | None:
        return None if value is None else f"{value.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"

    def _deserialize(self, value: Any, *_: Any, **__: Any) -> datetime:
        moment, _length = _read(value)
        return moment


class Since(Moment):
    """The last instant before a time."""

    def _deserialize(self, value: Any, *given: Any, **more: Any) -> datetime:
        return _shifted(super()._deserialize(value, *given, **more), -_LEAST)


class Until(Moment):
    """The first instant after a time: after the day, the second or the microsecond it names."""

    def _deserialize(self, value: Any, *_: Any, **__: Any) -> datetime:
        return _shifted(*_read(value))


def _read(value: Any) -> tuple[datetime, timedelta]:
    """A time and how long it lasts as it is written."""
    if not isinstance(value, str):
        raise ValidationError(_TOLD)
    written = _UNQUOTED.sub(r"\1+\2", value.strip())
    try:
        read = datetime.fromisoformat(written)
        moment = read.replace(tzinfo=read.tzinfo or UTC).astimezone(UTC)
    except (ValueError, OverflowError):
        raise ValidationError(_TOLD) from None
    if ":" not in written and "T" not in written:
        return moment, timedelta(days=1)
    return moment, _LEAST if read.microsecond else _SECOND


def _shifted(moment: datetime, by: timedelta) -> datetime:
    try:
        return moment + by
    except OverflowError:
        return moment
