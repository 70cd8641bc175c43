"""The common parts of all APIs: answers, vocabularies of states, errors.

Each field of an answer is declared once: the declaration documents it (OpenAPI) and reads it from a
view, which is a row, or a NamedTuple or dataclass of the rows that one answer needs.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timedelta
from enum import StrEnum
from functools import partial
from operator import attrgetter
from typing import Any, TypeVar
from uuid import UUID

from marshmallow import Schema, fields, missing

from api.toolkit.fields import Duration, Timestamp
from api.toolkit.problems import Problem
from orchestrator.errors import Invalid, Mistake, OrchestratorError
from orchestrator.models.base import Base
from orchestrator.work_limits import take_step

# Not `str | int`, which would be made anew for each value.
_JSON_TYPES = (str, int)

State = TypeVar("State", bound=StrEnum)
Field = fields.Field[Any]
FieldKind = TypeVar("FieldKind", bound=Field)


def described(kind: type[FieldKind], description: str, **options: Any) -> FieldKind:
    """A field with a description in the OpenAPI document."""
    return kind(metadata={"description": description}, **options)


def computed(
    field: FieldKind | type[FieldKind],
    compute: Callable[[Any], Any],
    description: str | None = None,
    **options: Any,
) -> FieldKind:
    """A field of a `WireSchema` whose value is a function of the view; `missing` leaves it out.

    `field` is one, or the kind of one with a description and options.
    """
    if isinstance(field, type):
        field = described(field, description, **options) if description else field(**options)
    field.compute = compute  # type: ignore[attr-defined]
    return field


def constant(
    field: FieldKind | type[FieldKind], value: Any, description: str | None = None, **options: Any
) -> FieldKind:
    """A field of a `WireSchema` that is the same in every answer."""
    return computed(field, lambda _: value, description, **options)


def optional(field: FieldKind) -> FieldKind:
    """A field of a `WireSchema` that an answer may lack; all others are documented as required."""
    field.optional = True  # type: ignore[attr-defined]
    return field


def enumeration(
    words: Iterable[str], description: str | None = None, **options: Any
) -> fields.String:
    """A text that is one of the words."""
    metadata = {"enum": [*words], **({"description": description} if description else {})}
    return fields.String(metadata=metadata, **options)


def inserted(row: Base, **others: Any) -> dict[str, Any]:
    """The view of a row that was just inserted, with other members: what was not set is null."""
    return {**dict.fromkeys(row.__mapper__.c.keys()), **vars(row), **others}


def columns(model: type[Base], names: str, **special: str | Field) -> dict[str, Field]:
    """Fields for columns of a table, for `Meta.include`: null, or one of an enumeration, as those.

    `names` are separated by spaces; `special` has by name a description, or a field to take instead
    of that of the column.
    """
    return {name: _field(model, name, special.get(name)) for name in names.split()}


def _field(model: type[Base], name: str, special: str | Field | None) -> Field:
    if isinstance(special, fields.Field):
        return special
    column = model.__mapper__.c[name]
    kind = column.type.python_type
    make = next(make for each, make in _FIELDS_OF_TYPES.items() if issubclass(kind, each))
    metadata: dict[str, Any] = {"enum": list(kind)} if issubclass(kind, StrEnum) else {}
    if special:
        metadata["description"] = special
    return make(allow_none=column.nullable, metadata=metadata)


# The first that a type is a subclass of counts: `bool` is an `int`, and JSON an `object`.
_FIELDS_OF_TYPES: Mapping[type, Callable[..., Field]] = {
    bool: fields.Boolean,
    int: fields.Integer,
    float: fields.Float,
    str: fields.String,
    UUID: fields.UUID,
    datetime: Timestamp,
    timedelta: Duration,
    list: partial(fields.List, fields.String),
    object: fields.Dict,
}


class WireSchema(Schema):
    """An answer: each field is `computed`, or an attribute of the view by path or by its name.

    A path has dots: `fields.Integer(attribute="run.number")`. In a dict a key may be missing: its
    field is `optional`. marshmallow's own `dump` took most of the time of a response.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        paths = [
            (field.data_key or name, field, field.attribute or name)
            for name, field in self.dump_fields.items()
        ]
        self._of_objects = [(key, field, _attribute(field, path)) for key, field, path in paths]
        self._of_dicts = [(key, field, _member(field, path)) for key, field, path in paths]

    def on_bind_field(self, field_name: str, field_obj: Field) -> None:
        """Document the member as always there, unless it is `optional`."""
        super().on_bind_field(field_name, field_obj)
        field_obj.required = not getattr(field_obj, "optional", False)

    def dump(self, obj: Any, *, many: bool | None = None) -> Any:
        """The view or views as JSON types."""
        if self.many if many is None else many:
            return [self._one(each) for each in obj]
        return self._one(obj)

    def _one(self, view: Any) -> dict[str, Any]:
        take_step()
        body = {}
        for key, field, source in self._of_dicts if isinstance(view, dict) else self._of_objects:
            value = source(view)
            if value is None or isinstance(value, _JSON_TYPES):
                body[key] = value
            elif value is not missing:
                body[key] = field._serialize(value, None, None)
        return body


def _attribute(field: Field, path: str) -> Callable[[Any], Any]:
    """What reads a field's value from an object."""
    compute: Callable[[Any], Any] = getattr(field, "compute", attrgetter(path))
    return compute


def _member(field: Field, path: str) -> Callable[[Any], Any]:
    """What reads a field's value from a dict."""
    compute: Callable[[Any], Any] = getattr(field, "compute", lambda view: view.get(path, missing))
    return compute


def camel(name: str) -> str:
    """`run_id` as `runId`."""
    first, *others = name.split("_")
    return first + "".join(other.capitalize() for other in others)


class CamelCase(Schema):
    """A body whose members are in camelCase, unless `data_key` names them."""

    def on_bind_field(self, field_name: str, field_obj: Field) -> None:
        """Name the member after the field."""
        super().on_bind_field(field_name, field_obj)
        if field_obj.data_key is None:
            field_obj.data_key = camel(field_name)


class Vocabulary(dict[State, str]):
    """A contract's word for every state. Raises ValueError if one has none."""

    def __init__(self, kind: type[State], words: Mapping[State, str]) -> None:
        super().__init__(words)
        if left := [state.value for state in kind if state not in self]:
            raise ValueError(f"{kind.__name__} without a word: {', '.join(left)}")

    @property
    def words(self) -> list[str]:
        """Each word once, in the order of declaration."""
        return list(dict.fromkeys(self.values()))

    def states(self, *words: str) -> list[State]:
        """The states that read as one of the words."""
        return [state for state, word in self.items() if word in words]


def lines_of(problem: Problem) -> list[str]:
    """Each mistake as `/where: what`."""
    return [f"{mistake.pointer}: {mistake.detail}" for mistake in problem.mistakes]


@contextmanager
def reworded(message: str, kind: type[OrchestratorError]) -> Iterator[None]:
    """Give errors of a kind another message."""
    try:
        yield
    except kind:
        raise kind(message) from None


@contextmanager
def relocated(places: Mapping[str, str], message: str | None = None) -> Iterator[None]:
    """Move the mistakes of `Invalid` to where they are in the contract's body.

    `places` has new prefixes of pointers by old ones, as in `{"/params": "/input"}`; the longest
    old one counts, and "" is a prefix of all.
    """
    try:
        yield
    except Invalid as error:
        moved = [Mistake(_moved(each.pointer, places), each.detail) for each in error.mistakes]
        raise type(error)(message or str(error), *moved) from None


def _moved(pointer: str, places: Mapping[str, str]) -> str:
    for prefix in sorted(places, key=len, reverse=True):
        if pointer == prefix or pointer.startswith(f"{prefix}/"):
            return places[prefix] + pointer[len(prefix) :]
    return pointer


class MistakeSchema(WireSchema):
    """One mistake in a request."""

    pointer = described(fields.String, "where, as a JSON pointer")
    detail = described(fields.String, "what would be right")


class ProblemSchema(WireSchema):
    """An error response (RFC 9457)."""

    type = fields.String()
    title = fields.String()
    status = fields.Integer()
    code = described(fields.String, "stays the same for the same reason")
    detail = fields.String()
    errors = optional(fields.List(fields.Nested(MistakeSchema)))
