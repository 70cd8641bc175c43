"""Templates over `params`, `steps.<key>.result` and `run`, in Jinja's sandbox.

A string that is exactly one `{{ expression }}` keeps the value's own type; any other string is
rendered to text. `when` is one bare expression.
"""

from collections.abc import Mapping
from typing import Any

from jinja2 import StrictUndefined, Undefined, UndefinedError, nodes
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

TEMPLATE_NAMES = frozenset({"params", "steps", "run"})

_REFUSED_NODES = (nodes.Block, nodes.Extends, nodes.Include, nodes.Import, nodes.FromImport)
_MAX_EXCERPT = 200  # characters of a template in an error


class _Environment(ImmutableSandboxedEnvironment):
    def getattr(self, obj: Any, attribute: str) -> Any:
        """Members before methods: an object may have a member called `items`."""
        if isinstance(obj, Mapping) and attribute in obj:
            return obj[attribute]
        return super().getattr(obj, attribute)


_environment = _Environment(undefined=StrictUndefined, autoescape=False, keep_trailing_newline=True)


class TemplateError(Exception):
    """The template does not parse, or fails with these values."""


def render(value: Any, names: Mapping[str, Any]) -> Any:
    """Fill every template in a JSON value. Raises TemplateError."""
    if isinstance(value, dict):
        return {key: render(each, names) for key, each in value.items()}
    if isinstance(value, list):
        return [render(each, names) for each in value]
    if not isinstance(value, str) or "{" not in value:
        return value
    try:
        expression = _only_expression(value)
        if expression is not None:
            return evaluate(expression, names)
        return _environment.from_string(value).render(names)
    except TemplateError:
        raise
    except Exception as error:  # a template may raise anything
        raise TemplateError(f"{_short(value)}: {error}") from error


def evaluate(expression: str, names: Mapping[str, Any]) -> Any:
    """The value of one bare expression. Raises TemplateError."""
    try:
        value = _environment.compile_expression(expression, undefined_to_none=False)(**names)
        _refuse_undefined(value)
    except Exception as error:
        raise TemplateError(f"{_short(expression)}: {error}") from error
    return value


def check_condition(text: str) -> str:
    """The one expression of a `when`, written with or without braces. Raises TemplateError."""
    expression = _only_expression(text) or text
    try:
        parser = Parser(_environment, expression, state="variable")
        parser.parse_expression()
        if not parser.stream.eos:
            raise TemplateError("it is more than one expression")
    except RecursionError:
        raise TemplateError("nested too deeply") from None
    except Exception as error:
        raise TemplateError(f"{_short(text)}: {error}") from error
    return expression


def referenced_steps(value: Any) -> set[str]:
    """The steps that the templates in a JSON value name. Raises TemplateError for bad ones."""
    if isinstance(value, dict | list):
        inside = value.values() if isinstance(value, dict) else value
        return set().union(*map(referenced_steps, inside))
    if not isinstance(value, str) or "{" not in value:
        return set()
    tree = _parse(value)
    try:
        return _keys_in(tree)
    except RecursionError:
        raise TemplateError("nested too deeply") from None


def _keys_in(tree: nodes.Template) -> set[str]:
    if any(tree.find(kind) for kind in _REFUSED_NODES):
        raise TemplateError("templates of other templates have no place here")
    for used in tree.find_all((nodes.Filter, nodes.Test)):
        is_filter = isinstance(used, nodes.Filter)
        if used.name not in (_environment.filters if is_filter else _environment.tests):
            raise TemplateError(f"there is no {'filter' if is_filter else 'test'} {used.name!r}")
    # Not by jinja2.meta: it evaluates constants, which may be large.
    names = list(tree.find_all(nodes.Name))
    own = {name.name for name in names if name.ctx != "load"} | set(_environment.globals)
    unknown = {name.name for name in names} - own - TEMPLATE_NAMES - {"loop"}
    if unknown:
        known = ", ".join(sorted(TEMPLATE_NAMES))
        raise TemplateError(f"unknown name {sorted(unknown)[0]!r}; there are {known}")
    return {key for node in tree.find_all((nodes.Getattr, nodes.Getitem)) for key in _key(node)}


def _key(node: nodes.Node) -> list[str]:
    match node:
        case nodes.Getattr(node=nodes.Name(name="steps"), attr=key):
            return [key]
        case nodes.Getitem(node=nodes.Name(name="steps"), arg=nodes.Const(value=key)):
            return [str(key)]
    return []


def _only_expression(text: str) -> str | None:
    stripped = text.strip()
    if not (stripped.startswith("{{") and stripped.endswith("}}")):
        return None
    body = _parse(stripped).body
    if len(body) != 1 or not isinstance(body[0], nodes.Output) or len(body[0].nodes) != 1:
        return None
    inside = stripped[2:-2]
    # A sign next to the braces is Jinja's whitespace control.
    inside = inside[1:] if inside[:1] in ("-", "+") else inside
    return (inside[:-1] if inside[-1:] in ("-", "+") else inside).strip()


def _refuse_undefined(value: Any) -> None:
    """Raises UndefinedError for an undefined at any depth of the value."""
    if isinstance(value, Undefined):
        raise UndefinedError(value._undefined_message)
    inside = value.values() if isinstance(value, dict) else value
    for each in inside if isinstance(value, dict | list | tuple) else ():
        _refuse_undefined(each)


def _parse(text: str) -> nodes.Template:
    try:
        return _environment.parse(text)
    except RecursionError:
        raise TemplateError("nested too deeply") from None
    except Exception as error:  # Jinja raises more than its own errors, such as for a huge number
        raise TemplateError(f"{_short(text)}: {error}") from error


def _short(text: str) -> str:
    return repr(text if len(text) <= _MAX_EXCERPT else f"{text[:_MAX_EXCERPT]}…")
