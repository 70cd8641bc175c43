"""What is said of each kind of mistake, and the name of the kind, as pydantic has them."""

from collections.abc import Iterable

MISSING = "Field required"
UUID = "Input should be a valid UUID"
INTEGER = "Input should be a valid integer"
MOMENT = "Input should be a valid datetime, as in 2026-04-02T08:00:00Z"
STRING = "Input should be a valid string"
OBJECT = "Input should be a valid dictionary"
AT_LEAST = "Input should be greater than or equal to {min}"
AT_MOST = "Input should be less than or equal to {max}"
LONGER = "String should have at least {min} character"
SHORTER = "String should have at most {max} characters"

_KINDS = (
    (MISSING, "missing"),
    (UUID, "uuid_parsing"),
    (INTEGER, "int_parsing"),
    (MOMENT, "datetime_parsing"),
    (STRING, "string_type"),
    (OBJECT, "dict_type"),
    (AT_LEAST, "greater_than_equal"),
    (AT_MOST, "less_than_equal"),
    (LONGER, "string_too_short"),
    (SHORTER, "string_too_long"),
    ("Input should be '", "enum"),
    ("not JSON", "json_invalid"),
)


def one_of(words: Iterable[str]) -> str:
    """What is said where only some words are right."""
    *others, last = [f"'{word}'" for word in words]
    return f"Input should be {', '.join(others)} or {last}" if others else f"Input should be {last}"


def kind_of(message: str) -> str:
    """The name of the kind of mistake that is said so."""
    said = ((start.partition("{")[0], kind) for start, kind in _KINDS)
    return next((kind for start, kind in said if message.startswith(start)), "value_error")
