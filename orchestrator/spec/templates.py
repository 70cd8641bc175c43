"""Templates over `params`, `steps.<key>.result` and `run`, in Jinja's sandbox.

A string that is exactly one `{{ expression }}` keeps the value's own type; any other string is
rendered to text. `when` is one bare expression.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from jinja2 import StrictUndefined, Undefined, UndefinedError, nodes
from jinja2.ext import Extension
from jinja2.lexer import Token
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from orchestrator.errors import Invalid
from orchestrator.work_limits import take_step

MAX_TOTAL = 500_000  # characters of all templates of a workflow
_MAX_LENGTH = 100_000  # characters of one template
_MAX_NODES, _MAX_DEPTH = 20_000, 250  # of the tree of one template
TEMPLATE_NAMES = frozenset({"params", "steps", "run"})

_REFUSED_NODES = (nodes.Block, nodes.Extends, nodes.Include, nodes.Import, nodes.FromImport)
_MAX_EXCERPT = 200  # characters of a template in an error


class _Environment(ImmutableSandboxedEnvironment):
    def getattr(self, obj: Any, attribute: str) -> Any:
        """Members before methods: an object may have a member called `items`."""
        if isinstance(obj, Mapping) and attribute in obj:
            return obj[attribute]
        return super().getattr(obj, attribute)


class _Steps(Extension):
    """Takes a step for each token."""

    def filter_stream(self, stream: Iterable[Token]) -> Iterator[Token]:
        for token in stream:
            take_step()
            yield token


_environment = _Environment(
    undefined=StrictUndefined, autoescape=False, keep_trailing_newline=True, extensions=[_Steps]
)


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
    except Invalid:  # of `take_step`
        raise
    except Exception as error:
        raise TemplateError(f"{_short(text)}: {error}") from error
    return expression


def length(value: Any) -> int:
    """The number of characters of all templates in a JSON value."""
    if isinstance(value, dict | list):
        return sum(map(length, value.values() if isinstance(value, dict) else value))
    return len(value) if isinstance(value, str) and "{" in value else 0


def referenced_steps(value: Any) -> set[str]:
    """The steps that the templates in a JSON value name. Raises TemplateError for bad ones."""
    if isinstance(value, dict | list):
        inside = value.values() if isinstance(value, dict) else value
        return set().union(*map(referenced_steps, inside))
    if not isinstance(value, str) or "{" not in value:
        return set()
    if len(value) > _MAX_LENGTH:
        detail = f"{len(value):,} characters are too long a template; {_MAX_LENGTH:,} are taken"
        raise TemplateError(detail)
    return _keys_in(_nodes_of(_parse(value)))


def _nodes_of(tree: nodes.Template) -> list[nodes.Node]:
    """The tree and all nodes below it. Raises TemplateError for too many or too deep ones."""
    tree_nodes: list[nodes.Node] = []
    level: list[nodes.Node] = [tree]
    for _ in range(_MAX_DEPTH):
        tree_nodes += level
        if len(tree_nodes) > _MAX_NODES:
            raise TemplateError(f"a template has at most {_MAX_NODES:,} names, values and signs")
        level = list(_below(level))
        if not level:
            return tree_nodes
    raise TemplateError("nested too deeply")


def _below(level: Iterable[nodes.Node]) -> Iterator[nodes.Node]:
    for node in level:
        take_step()
        yield from node.iter_child_nodes()


def _keys_in(tree_nodes: Iterable[nodes.Node]) -> set[str]:
    names: list[nodes.Name] = []
    keys: set[str] = set()
    for node in tree_nodes:
        if isinstance(node, _REFUSED_NODES):
            raise TemplateError("templates of other templates have no place here")
        if isinstance(node, nodes.Filter | nodes.Test):
            _check_function(node)
        if isinstance(node, nodes.Name):
            names.append(node)
        keys.update(_key(node))
    # Not by jinja2.meta: it evaluates constants, which may be large.
    own = {name.name for name in names if name.ctx != "load"} | set(_environment.globals)
    unknown = {name.name for name in names} - own - TEMPLATE_NAMES - {"loop"}
    if unknown:
        known = ", ".join(sorted(TEMPLATE_NAMES))
        raise TemplateError(f"unknown name {sorted(unknown)[0]!r}; there are {known}")
    return keys


def _check_function(node: nodes.Filter | nodes.Test) -> None:
    is_filter = isinstance(node, nodes.Filter)
    if node.name not in (_environment.filters if is_filter else _environment.tests):
        raise TemplateError(f"there is no {'filter' if is_filter else 'test'} {node.name!r}")


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
    except Invalid:  # of `take_step`
        raise
    except Exception as error:  # Jinja raises more than its own errors, such as for a huge number
        raise TemplateError(f"{_short(text)}: {error}") from error


def _short(text: str) -> str:
    return repr(text if len(text) <= _MAX_EXCERPT else f"{text[:_MAX_EXCERPT]}…")
