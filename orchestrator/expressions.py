"""Templates over `params`, `steps.<key>.result` and `run`, in Jinja's sandbox.

A string that is exactly one `{{ expression }}` keeps the value's own type; any other string is
rendered to text. `when` is one bare expression.
"""

from collections.abc import Mapping
from typing import Any

from jinja2 import StrictUndefined, meta, nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment

NAMES = frozenset({"params", "steps", "run"})

_SHOWN = 200  # characters of a template in an error

_environment = ImmutableSandboxedEnvironment(
    undefined=StrictUndefined,
    autoescape=False,
    optimized=False,  # else compiling computes: a large power would stop whoever looks at it
)


class ExpressionError(Exception):
    """The template does not parse, or does not work with these values."""


def resolve(value: Any, names: Mapping[str, Any]) -> Any:
    """Fill every template in a JSON value. Raises ExpressionError."""
    if isinstance(value, dict):
        return {key: resolve(each, names) for key, each in value.items()}
    if isinstance(value, list):
        return [resolve(each, names) for each in value]
    if not isinstance(value, str) or "{" not in value:
        return value
    try:
        expression = _only_expression(value)
        if expression is not None:
            return evaluate(expression, names)
        return _environment.from_string(value).render(names)
    except ExpressionError:
        raise
    except Exception as error:  # a template runs user code: any error is its answer
        raise ExpressionError(f"{_short(value)}: {error}") from error


def evaluate(expression: str, names: Mapping[str, Any]) -> Any:
    """The value of one bare expression. Raises ExpressionError."""
    try:
        value = _environment.compile_expression(expression, undefined_to_none=False)(**names)
        if isinstance(value, StrictUndefined):
            str(value)  # raises, and says what is undefined
    except Exception as error:
        raise ExpressionError(f"{_short(expression)}: {error}") from error
    return value


def condition(text: str) -> str:
    """The bare expression of a `when`, which may be written with or without braces."""
    return _only_expression(text) or text


def keys_read(value: Any) -> set[str]:
    """The steps whose results the templates in a JSON value name.

    Raises ExpressionError for a template that does not parse or names something unknown.
    """
    if isinstance(value, dict):
        return set().union(*(keys_read(each) for each in value.values()))
    if isinstance(value, list):
        return set().union(*(keys_read(each) for each in value))
    if not isinstance(value, str) or "{" not in value:
        return set()
    tree = _parse(value)
    try:
        return _keys_in(tree)
    except RecursionError:
        raise ExpressionError("nested too deeply") from None


def _keys_in(tree: nodes.Template) -> set[str]:
    unknown = meta.find_undeclared_variables(tree) - NAMES
    if unknown:
        known = ", ".join(sorted(NAMES))
        raise ExpressionError(f"unknown name {sorted(unknown)[0]!r}; there are {known}")
    return {key for node in tree.find_all((nodes.Getattr, nodes.Getitem)) for key in _key(node)}


def _key(node: nodes.Node) -> list[str]:
    if isinstance(node, nodes.Getattr | nodes.Getitem):
        of = node.node
        if isinstance(of, nodes.Name) and of.name == "steps":
            if isinstance(node, nodes.Getattr):
                return [node.attr]
            if isinstance(node.arg, nodes.Const):
                return [str(node.arg.value)]
    return []


def _only_expression(text: str) -> str | None:
    stripped = text.strip()
    if not (stripped.startswith("{{") and stripped.endswith("}}")):
        return None
    body = _parse(stripped).body
    if len(body) == 1 and isinstance(body[0], nodes.Output) and len(body[0].nodes) == 1:
        return stripped[2:-2].strip("-+ \t\n")
    return None


def _parse(text: str) -> nodes.Template:
    """The template's tree. Compiling it as well finds filters and tests that do not exist."""
    try:
        _environment.compile(text)
        return _environment.parse(text)
    except RecursionError:
        raise ExpressionError("nested too deeply") from None
    except Exception as error:  # Jinja raises more than its own errors, such as for a huge number
        raise ExpressionError(f"{_short(text)}: {error}") from error


def _short(text: str) -> str:
    return repr(text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…")
