"""The check of a run's parameters, and JSON Schema errors as `Mistake`s."""

import difflib
import re
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

from jsonschema import Draft202012Validator, FormatChecker
from jsonschema.exceptions import SchemaError, ValidationError
from referencing import Registry

from orchestrator.errors import InvalidParams, Mistake
from orchestrator.json_values import pointer_to
from orchestrator.spec.hidden_params import Parts, hidden_parts, parts_at

_OF_NAMES = ("required", "dependentRequired", "additionalProperties")  # whose texts have no value

ParamsCheck = Callable[[Mapping[str, Any]], dict[str, Any]]


def check_params(
    schema: Mapping[str, Any], params: Mapping[str, Any], *, complete: bool = True
) -> dict[str, Any]:
    """The parameters with defaults, with all required ones if `complete`. Raises InvalidParams."""
    return compile_params(schema, complete=complete)(params)


def compile_params(schema: Mapping[str, Any], *, complete: bool = True) -> ParamsCheck:
    """A function that checks parameters as `check_params` does, for many calls."""
    if not complete:
        schema = {name: value for name, value in schema.items() if name != "required"}
    defaults = {
        name: each["default"]
        for name, each in schema.get("properties", {}).items()
        if isinstance(each, dict) and "default" in each
    }
    hidden = cache(lambda: hidden_parts(schema))
    validator = Draft202012Validator(schema, registry=Registry(), format_checker=FormatChecker())

    def check(params: Mapping[str, Any]) -> dict[str, Any]:
        values = {**defaults, **params}
        try:
            mistakes = [
                each
                for error in validator.iter_errors(values)
                for each in to_field_errors(error, hidden())
            ]
        except Exception as error:  # such as an unresolvable $ref or a bad pattern
            raise InvalidParams(f"the workflow's JSON Schema cannot be used: {error}") from error
        if mistakes:
            below = [Mistake(f"/params{at.pointer.rstrip('/')}", at.detail) for at in mistakes]
            raise InvalidParams("the parameters do not fit the workflow", *below)
        return values

    return check


def schema_mistakes(schema: Mapping[str, Any]) -> list[Mistake]:
    """Why the parameters' schema of a workflow is no JSON Schema."""
    try:
        Draft202012Validator.check_schema(schema)
    except SchemaError as error:
        pointer = pointer_to(["params", *error.absolute_path])
        return [Mistake(pointer, f"not a JSON Schema: {error.message[-300:]}")]
    except RecursionError:
        return [Mistake("/params", "not a JSON Schema: nested too deeply")]
    return []


def to_field_errors(error: ValidationError, hidden: Parts = False) -> list[Mistake]:
    """The mistakes of a validation error; an unknown option is named with the closest known one.

    None shows a value of which parts are hidden.
    """
    pointer = pointer_to(error.absolute_path)
    if error.validator not in _OF_NAMES and parts_at(hidden, error.absolute_path):
        return [Mistake(pointer, f"does not fit `{error.validator}` of the workflow's JSON Schema")]
    if error.validator != "additionalProperties" or not isinstance(error.instance, dict):
        return [Mistake(pointer, _message_tail(error))]
    schema = error.schema if isinstance(error.schema, Mapping) else {}
    known = list(schema.get("properties", {}))
    patterns = schema.get("patternProperties", {})
    unknown = [
        key
        for key in error.instance
        if key not in known and not any(re.search(pattern, key) for pattern in patterns)
    ]
    return [
        Mistake(pointer_to([*error.absolute_path, key]), _unknown(key, known)) for key in unknown
    ] or [Mistake(pointer, _message_tail(error))]


def _message_tail(error: ValidationError) -> str:
    """The message, or the end of a long one: the value, which may be long, comes first in it."""
    return error.message if len(error.message) <= 400 else f"…{error.message[-300:]}"


def _unknown(key: str, known: list[str]) -> str:
    closest = difflib.get_close_matches(key, known, n=1)
    hint = f"did you mean {closest[0]!r}?" if closest else f"known are {', '.join(known) or 'none'}"
    return f"unknown option {key!r}; {hint}"
