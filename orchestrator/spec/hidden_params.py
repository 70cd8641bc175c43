"""Parameters that a workflow's JSON Schema declares `writeOnly`: handlers get them, answers do not.

Which parts of the parameters are hidden is read from the schema once, as a JSON value: `True` is a
hidden part, and an object has the hidden parts of members by their names, with `*` for all of them
and for the elements of lists.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

Parts = Mapping[str, Any] | bool

HIDDEN = "***"  # in the place of a value
MAX_SCHEMAS = 5_000  # that are read of one, with those that references repeat

_ANY = "*"
_NOTHING: Parts = {}
_EACH_MEMBER = ("additionalProperties", "unevaluatedProperties")
_EACH_ELEMENT = ("items", "unevaluatedItems", "contains")
_SAME = ("if", "then", "else", "not", "$ref", "$dynamicRef")
_ALL_SAME = ("allOf", "anyOf", "oneOf")


def hidden_parts(schema: Any) -> Parts:
    """The hidden parts of the parameters that the schema describes; false without any."""
    if "writeOnly" not in repr(schema):
        return _NOTHING
    parts = _Reader(schema).parts(schema)
    return {_ANY: True} if parts is True else parts  # the parameters stay an object


def hide(parts: Parts, value: Any) -> Any:
    """The value as answers show it."""
    return _replace(parts, value, HIDDEN)


def keep_hidden(parts: Parts, value: Any, before: Any) -> Any:
    """The value with what was there before wherever a caller sends back what an answer showed."""
    if parts is True:
        return before if value == HIDDEN else value
    if isinstance(value, dict) and isinstance(before, Mapping):
        return {
            name: keep_hidden(_below(parts, name), each, before[name]) if name in before else each
            for name, each in value.items()
        }
    if isinstance(value, list) and isinstance(before, list) and len(value) == len(before):
        pairs = zip(value, before, strict=True)
        return [keep_hidden(_below(parts, _ANY), each, old) for each, old in pairs]
    return value


def hidden_texts(parts: Parts | None, value: Any) -> Iterator[str]:
    """The texts and numbers, as texts, in the hidden parts of a value."""
    if parts is True and isinstance(value, str | int | float) and not isinstance(value, bool):
        yield str(value)
    if parts and isinstance(value, Mapping):
        for name, each in value.items():
            yield from hidden_texts(_below(parts, name), each)
    elif parts and isinstance(value, list):
        for each in value:
            yield from hidden_texts(_below(parts, _ANY), each)


def parts_at(parts: Parts, path: Sequence[Any]) -> Parts:
    """The hidden parts below a path of names and positions."""
    for each in path:
        parts = _below(parts, each if isinstance(each, str) else _ANY)
    return parts


def _replace(parts: Parts, value: Any, by: str) -> Any:
    if parts is True:
        return by
    if parts and isinstance(value, Mapping):
        return {name: _replace(_below(parts, name), each, by) for name, each in value.items()}
    if parts and isinstance(value, list):
        return [_replace(_below(parts, _ANY), each, by) for each in value]
    return value


def _below(parts: Parts, name: str) -> Parts:
    """The parts of one member."""
    if isinstance(parts, bool):
        return parts
    return _merged(parts.get(name, _NOTHING), parts.get(_ANY, _NOTHING))


class _Reader:
    """Reads the hidden parts from a schema, which may describe far more than it has lines."""

    def __init__(self, root: Any) -> None:
        self._root, self._left = root, MAX_SCHEMAS

    def parts(self, schema: Any, references: tuple[str, ...] = ()) -> Parts:
        """The hidden parts of one schema below the root; all of them after MAX_SCHEMAS."""
        self._left -= 1
        if not isinstance(schema, Mapping):
            return _NOTHING
        if schema.get("writeOnly") is True or self._left < 0:
            return True
        members: dict[str, Any] = {}
        for name, each in _subschemas(schema):
            below = self._below(each, references)
            if below is True and name is None:
                return True
            _add(members, below if name is None else {name: below} if below else _NOTHING)
        return members

    def _below(self, schema: Any, references: tuple[str, ...]) -> Parts:
        if not isinstance(schema, str):
            return self.parts(schema, references)
        if schema in references:  # it describes itself: hidden from the second time on
            return True
        return self.parts(_target(self._root, schema), (*references, schema))


def _subschemas(schema: Mapping[str, Any]) -> Iterator[tuple[str | None, Any]]:
    """The schemas in a schema and the names of what they describe; None: the value itself."""
    yield from _members(schema, "properties")
    for _, each in _members(schema, "patternProperties"):
        yield _ANY, each
    for _, each in _members(schema, "dependentSchemas"):
        yield None, each
    for name in (*_EACH_MEMBER, *_EACH_ELEMENT, *_SAME):
        if name in schema:
            yield (None if name in _SAME else _ANY), schema[name]
    for name in (*_ALL_SAME, "prefixItems"):
        each_of = schema.get(name)
        for each in each_of if isinstance(each_of, list) else ():
            yield (None if name in _ALL_SAME else _ANY), each


def _members(schema: Mapping[str, Any], name: str) -> Iterator[tuple[str, Any]]:
    members = schema.get(name)
    if isinstance(members, Mapping):
        yield from members.items()


def _target(root: Any, reference: str) -> Any:
    """The schema at a reference within the document, like `#/$defs/token`; else a hidden one."""
    target = root
    for each in reference.removeprefix("#").split("/")[1:]:
        name = each.replace("~1", "/").replace("~0", "~")
        target = target.get(name) if isinstance(target, Mapping) else None
    is_pointer = reference == "#" or reference.startswith("#/")
    return target if is_pointer and target is not None else {"writeOnly": True}


def _merged(one: Parts, other: Parts) -> Parts:
    if one is True or other is True:
        return True
    merged: dict[str, Any] = {}
    _add(merged, one)
    _add(merged, other)
    return merged


def _add(members: dict[str, Any], parts: Parts) -> None:
    for name, each in parts.items() if isinstance(parts, Mapping) else ():
        members[name] = _merged(members[name], each) if name in members else each
