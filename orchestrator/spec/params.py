"""The check of a run's parameters, and JSON Schema errors as `Mistake`s."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache
from typing import Any

from jsonschema.exceptions import ValidationError
from referencing import Registry

from orchestrator.errors import Invalid, InvalidParams, Mistake, first_mistakes
from orchestrator.hints import closest
from orchestrator.json_values import count_values, pointer_to, truncate_text
from orchestrator.spec.hidden_params import Parts, hidden_parts, parts_at
from orchestrator.spec.json_schema import Validator, format_checker, unnamed
from orchestrator.work_limits import work_limit

_OF_NAMES = ("required", "dependentRequired", "additionalProperties")  # whose texts have no value

# Keywords of a schema that say nothing of names that it does not have.
_OPEN_KEYWORDS = frozenset(
    {
        "$schema", "$id", "$comment", "$defs", "title", "description", "examples", "type",
        "properties", "required", "dependentRequired", "additionalProperties",
    }
)  # fmt: skip

ParamsCheck = Callable[[Mapping[str, Any]], dict[str, Any]]
MAX_SCHEMA_VALUES = 10_000
_MAX_CHECK = 0.5  # seconds of processor time
_MAX_HINTS = 20  # of one answer: each compares a name with all known ones
_MAX_KNOWN, _MAX_KEY, _MAX_REASON = 500, 100, 500  # characters in a message
_META_SCHEMA = Validator(Validator.META_SCHEMA, format_checker=format_checker())


def check_params(
    schema: Mapping[str, Any], params: Mapping[str, Any], *, complete: bool = True
) -> dict[str, Any]:
    """The parameters with defaults, with all required ones if `complete`. Raises InvalidParams."""
    return compile_params(schema, complete=complete)(params)


def compile_params(schema: Mapping[str, Any], *, complete: bool = True) -> ParamsCheck:
    """A function that checks parameters as `check_params` does, for many calls."""
    if not complete:
        schema = {name: value for name, value in schema.items() if name != "required"}
    defaults = default_params(schema)
    hidden = cache(lambda: hidden_parts(schema))
    # An empty registry: a `$ref` to another document is refused instead of fetched.
    validator = Validator(schema, registry=Registry(), format_checker=format_checker())

    def check(params: Mapping[str, Any]) -> dict[str, Any]:
        values = {**defaults, **params}
        try:
            with work_limit(_MAX_CHECK, "the check of the parameters"):
                errors = validator.iter_errors(values)
                mistakes = first_mistakes(to_field_errors(errors, hidden))
        except Invalid as error:
            raise InvalidParams(str(error)) from None
        except Exception as error:  # such as an unresolvable $ref or a bad pattern
            reason = truncate_text(str(error), _MAX_REASON)
            raise InvalidParams(f"the workflow's JSON Schema cannot be used: {reason}") from error
        if mistakes:
            below = [Mistake(f"/params{at.pointer.rstrip('/')}", at.detail) for at in mistakes]
            raise InvalidParams("the parameters do not fit the workflow", *below)
        return values

    return check


def without_value(schema: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the values that may be parameters and have no default.

    Names that the schema does not have are left out if it says anything of such names.
    """
    known, defaults = schema.get("properties", {}), default_params(schema)
    is_open = schema.get("additionalProperties", True) is True and schema.keys() <= _OPEN_KEYWORDS
    return {
        name: value
        for name, value in values.items()
        if (is_open or name in known) and name not in defaults
    }


def default_params(schema: Mapping[str, Any]) -> dict[str, Any]:
    """The values of the parameters that a schema gives itself."""
    return {
        name: each["default"]
        for name, each in schema.get("properties", {}).items()
        if isinstance(each, dict) and "default" in each
    }


def schema_mistakes(schema: Mapping[str, Any]) -> list[Mistake]:
    """Why the parameters' schema of a workflow is no JSON Schema, or too large a one."""
    if (size := count_values(schema)) > MAX_SCHEMA_VALUES:
        detail = f"{size:,} values are too large a schema; {MAX_SCHEMA_VALUES:,} are taken"
        return [Mistake("/params", detail)]
    try:
        error = next(_META_SCHEMA.iter_errors(schema), None)
    except RecursionError:
        return [Mistake("/params", "not a JSON Schema: nested too deeply")]
    if error is None:
        return []
    reason = str(error.cause) if error.cause else _message_tail(error)
    pointer = pointer_to(["params", *error.absolute_path])
    return [Mistake(pointer, f"not a JSON Schema: {reason}")]


def to_field_errors(
    errors: Iterable[ValidationError], hidden: Callable[[], Parts] = lambda: False
) -> Iterator[Mistake]:
    """The mistakes of validation errors; an unknown option is named with the closest known one.

    None shows a value of which parts are hidden.
    """
    hints = _MAX_HINTS
    for error in errors:
        pointer = pointer_to(error.absolute_path)
        if error.validator not in _OF_NAMES and parts_at(hidden(), error.absolute_path):
            detail = f"does not fit `{error.validator}` of the workflow's JSON Schema"
            yield Mistake(pointer, detail)
        elif error.validator == "additionalProperties" and isinstance(error.instance, dict):
            schema: Any = error.schema
            for key in unnamed(error.instance, schema):
                place = pointer_to([*error.absolute_path, key])
                yield Mistake(place, _unknown(key, schema.get("properties", {}), hints > 0))
                hints -= 1
        else:
            yield Mistake(pointer, _message_tail(error))


def _message_tail(error: ValidationError) -> str:
    """The message, or the end of a long one: the value, which may be long, comes first in it."""
    return error.message if len(error.message) <= 400 else f"…{error.message[-300:]}"


def _unknown(key: str, known: Mapping[str, Any], hinted: bool) -> str:
    if near := closest(key, known) if hinted else None:
        hint = f"did you mean {near!r}?"
    else:
        hint = f"known are {truncate_text(', '.join(known), _MAX_KNOWN) or 'none'}"
    return f"unknown option {truncate_text(repr(key), _MAX_KEY)}; {hint}"
