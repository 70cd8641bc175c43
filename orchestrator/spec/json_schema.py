"""JSON Schema, draft 2020-12, with bounded work: linear patterns and comparisons, and steps.

jsonschema matches with `re`, compares lists by pairs, keeps the errors of all alternatives, and
obeys a `$schema` within a schema. The keywords here do not.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from functools import cache, lru_cache
from typing import Any

import re2
from jsonschema import Draft202012Validator, FormatChecker
from jsonschema.exceptions import ValidationError
from jsonschema.validators import extend

from orchestrator.errors import Invalid
from orchestrator.work_limits import take_step

MAX_PATTERN = 1000  # characters
_MAX_FORMATTED = 2000  # characters of a text with a format
_MAX_MATCH = 20_000_000  # instructions of a pattern times characters of a text: about 0.1 s
_OPTIONS = re2.Options()
_OPTIONS.max_mem = 1 << 19  # bytes
_OPTIONS.log_errors = False
_OPTIONS.never_capture = True

Keyword = Callable[[Any, Any, Any, Any], Iterator[ValidationError] | None]


@lru_cache(maxsize=64)
def compile_pattern(pattern: str) -> tuple[Any, int]:
    """The pattern for RE2, and its number of instructions.

    Raises ValueError for one that RE2 does not know or that is too long.
    """
    if len(pattern) > MAX_PATTERN:
        raise ValueError(f"a pattern has at most {MAX_PATTERN:,} characters")
    try:
        compiled = re2.compile(pattern, _OPTIONS)
    except re2.error as error:
        reason = error.args[0]
        reason = reason.decode("utf-8", "replace") if isinstance(reason, bytes) else reason
        raise ValueError(
            f"the pattern {pattern!r} is not taken ({reason}); patterns are those of RE2, without "
            "lookaround and references to groups"
        ) from None
    return compiled, compiled.programsize


def matches(pattern: str, text: str) -> bool:
    """Whether a part of the text matches. Raises ValueError for a bad pattern, and Invalid."""
    take_step()
    compiled, size = compile_pattern(pattern)
    if size * len(text) > _MAX_MATCH:
        raise Invalid(f"{len(text):,} characters are too long a text for the pattern {pattern!r}")
    return compiled.search(text) is not None


def unnamed(instance: Mapping[str, Any], schema: Mapping[str, Any]) -> list[str]:
    """The members that neither `properties` nor `patternProperties` of the schema name."""
    known, patterns = schema.get("properties", {}), schema.get("patternProperties", {})
    return [
        key
        for key in instance
        if key not in known and not any(matches(pattern, key) for pattern in patterns)
    ]


def _canonical(value: Any) -> str:
    """The same text for values that JSON Schema calls equal, and for no others."""
    take_step()
    if isinstance(value, Mapping):
        members = (f"{json.dumps(key)}:{_canonical(value[key])}" for key in sorted(value))
        return "{" + ",".join(members) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join(map(_canonical, value)) + "]"
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return json.dumps(value)


def _is_valid(validator: Any, instance: Any, schema: Any) -> bool:
    return next(validator.descend(instance, schema), None) is None


def _pattern(_: Any, pattern: str, instance: Any, __: Any) -> Iterator[ValidationError]:
    if isinstance(instance, str) and not matches(pattern, instance):
        yield ValidationError(f"{instance!r} does not match {pattern!r}")


def _pattern_properties(
    validator: Any, patterns: Mapping[str, Any], instance: Any, _: Any
) -> Iterator[ValidationError]:
    for pattern, schema in patterns.items() if isinstance(instance, dict) else ():
        for key, value in instance.items():
            if matches(pattern, key):
                yield from validator.descend(value, schema, path=key, schema_path=pattern)


def _additional_properties(
    validator: Any, allowed: Any, instance: Any, schema: Mapping[str, Any]
) -> Iterator[ValidationError]:
    extra = unnamed(instance, schema) if isinstance(instance, dict) else []
    if isinstance(allowed, dict):
        for key in extra:
            yield from validator.descend(instance[key], allowed, path=key)
    elif extra and allowed is False:
        names = ", ".join(map(repr, extra))
        yield ValidationError(f"Additional properties are not allowed: {names}")


def _unique_items(_: Any, unique: Any, instance: Any, __: Any) -> Iterator[ValidationError]:
    values = instance if unique and isinstance(instance, list) else []
    if len(set(map(_canonical, values))) < len(values):
        yield ValidationError(f"{instance!r} has non-unique elements")


def _enum(_: Any, values: Any, instance: Any, __: Any) -> Iterator[ValidationError]:
    if isinstance(instance, str):
        is_one = instance in values
    else:
        text = _canonical(instance)
        is_one = any(text == _canonical(value) for value in values)
    if not is_one:
        yield ValidationError(f"{instance!r} is not one of {values!r}")


def _const(_: Any, value: Any, instance: Any, __: Any) -> Iterator[ValidationError]:
    if _canonical(instance) != _canonical(value):
        yield ValidationError(f"{value!r} was expected")


def _any_of(validator: Any, schemas: Any, instance: Any, _: Any) -> Iterator[ValidationError]:
    if not any(_is_valid(validator, instance, each) for each in schemas):
        yield ValidationError(f"{instance!r} is not valid under any of the given schemas")


def _one_of(validator: Any, schemas: Any, instance: Any, _: Any) -> Iterator[ValidationError]:
    valid = [each for each in schemas if _is_valid(validator, instance, each)]
    if not valid:
        yield ValidationError(f"{instance!r} is not valid under any of the given schemas")
    elif len(valid) > 1:
        yield ValidationError(f"{instance!r} is valid under each of {', '.join(map(repr, valid))}")


def _contains(
    validator: Any, contained: Any, instance: Any, schema: Mapping[str, Any]
) -> Iterator[ValidationError]:
    if not isinstance(instance, list):
        return
    count = sum(1 for each in instance if _is_valid(validator, each, contained))
    if count < schema.get("minContains", 1):
        yield ValidationError(f"{instance!r} does not contain enough items of the given schema")
    elif count > schema.get("maxContains", count):
        yield ValidationError("Too many items match the given schema")


def _unevaluated_items(
    validator: Any, allowed: Any, instance: Any, schema: Any
) -> Iterator[ValidationError]:
    places = _evaluated(validator, instance, schema) if isinstance(instance, list) else set()
    for at, value in enumerate(instance if isinstance(instance, list) else ()):
        if at not in places and not _is_valid(validator, value, allowed):
            yield ValidationError("Unevaluated items are not allowed", path=[at])


def _unevaluated_properties(
    validator: Any, allowed: Any, instance: Any, schema: Any
) -> Iterator[ValidationError]:
    keys = _evaluated(validator, instance, schema) if isinstance(instance, dict) else set()
    for key in instance if isinstance(instance, dict) else ():
        if key not in keys and not _is_valid(validator, instance[key], allowed):
            yield ValidationError(f"Unevaluated properties are not allowed: {key!r}", path=[key])


def _evaluated(validator: Any, instance: Any, schema: Any) -> set[Any]:
    """The keys or positions of an instance that a schema and those within it speak of."""
    take_step()
    if not isinstance(schema, Mapping):
        return set()
    named = _keys_of if isinstance(instance, dict) else _positions_of
    places = set(named(validator, instance, schema))
    for inner, evolved in _applied(validator, instance, schema):
        places |= _evaluated(evolved, instance, inner)
    return places


def _keys_of(validator: Any, instance: dict[str, Any], schema: Mapping[str, Any]) -> Iterator[str]:
    yield from schema.get("properties", {}).keys() & instance.keys()
    for key in instance:
        if any(matches(pattern, key) for pattern in schema.get("patternProperties", ())):
            yield key
    for keyword in ("additionalProperties", "unevaluatedProperties"):
        if keyword in schema:
            inner = schema[keyword]
            yield from (key for key in instance if _is_valid(validator, instance[key], inner))


def _positions_of(validator: Any, instance: list[Any], schema: Mapping[str, Any]) -> Iterator[int]:
    yield from range(len(instance) if "items" in schema else len(schema.get("prefixItems", ())))
    for keyword in ("contains", "unevaluatedItems"):
        if keyword in schema:
            inner = schema[keyword]
            yield from (at for at, it in enumerate(instance) if _is_valid(validator, it, inner))


def _applied(validator: Any, instance: Any, schema: Mapping[str, Any]) -> Iterator[tuple[Any, Any]]:
    """The schemas within a schema that apply to the same instance, each with its validator."""
    for keyword in ("$ref", "$dynamicRef"):
        if keyword in schema:
            target = validator._resolver.lookup(schema[keyword])
            yield (
                target.contents,
                validator.evolve(schema=target.contents, _resolver=target.resolver),
            )
    for keyword in ("allOf", "anyOf", "oneOf"):
        for inner in schema.get(keyword, ()):
            if _is_valid(validator, instance, inner):
                yield inner, validator
    if "if" in schema:
        holds = _is_valid(validator, instance, schema["if"])
        for keyword in ("if", "then") if holds else ("else",):
            if keyword in schema:
                yield schema[keyword], validator
    for key, inner in schema.get("dependentSchemas", {}).items():
        if isinstance(instance, dict) and key in instance:
            yield inner, validator


def _stepped(keyword: Keyword) -> Keyword:
    def check(validator: Any, value: Any, instance: Any, schema: Any) -> Any:
        take_step()
        return keyword(validator, value, instance, schema)

    return check


def _evolve(self: Any, *, schema: Any, _resolver: Any = None) -> Any:
    """As jsonschema's own, but without another class for a `$schema` within the schema."""
    take_step()
    return type(self)(
        schema,
        format_checker=self.format_checker,
        registry=self._registry,
        _resolver=_resolver or self._resolver,
    )


_BOUNDED: Mapping[str, Keyword] = {
    "enum": _enum,
    "const": _const,
    "anyOf": _any_of,
    "oneOf": _one_of,
    "contains": _contains,
    "uniqueItems": _unique_items,
    "additionalProperties": _additional_properties,
    "unevaluatedItems": _unevaluated_items,
    "unevaluatedProperties": _unevaluated_properties,
}
_OF_PATTERNS: Mapping[str, Keyword] = {
    "pattern": _pattern,
    "patternProperties": _pattern_properties,
}


def _validator_class(keywords: Mapping[str, Keyword]) -> Any:
    all_keywords = {**Draft202012Validator.VALIDATORS, **keywords}
    stepped = {name: _stepped(each) for name, each in all_keywords.items()}
    made: Any = extend(Draft202012Validator, stepped)  # type: ignore[no-untyped-call]
    made.evolve = _evolve
    return made


# For schemas of ours: their patterns are those of `re`.
TrustedValidator = _validator_class(_BOUNDED)
# For schemas of callers.
Validator = _validator_class({**_BOUNDED, **_OF_PATTERNS})


@cache
def format_checker() -> FormatChecker:
    """The formats that jsonschema knows, for texts of a bounded length; `regex` is that of RE2."""
    checker = FormatChecker()
    checker.checks("regex", raises=ValueError)(_is_regex)
    checker.checkers = {
        name: (_limited(check), raises) for name, (check, raises) in checker.checkers.items()
    }
    return checker


def _is_regex(value: Any) -> bool:
    return not isinstance(value, str) or compile_pattern(value) is not None


def _limited(check: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def is_so(value: Any) -> Any:
        return (not isinstance(value, str) or len(value) <= _MAX_FORMATTED) and check(value)

    return is_so
