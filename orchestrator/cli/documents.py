"""The files and parameters that a person writes, read as JSON values and nothing else.

YAML is read by the core schema of YAML 1.2: `on`, `yes`, dates and times are texts. Keys are texts
as they are written, each once; `<<` merges. What JSON has no value for is refused with its place.
"""

import json
import math
import re
from pathlib import Path
from typing import Any, NoReturn

import click
import yaml
from yaml.constructor import ConstructorError

from orchestrator.cli.files import MAX_LENGTH, read_text
from orchestrator.json_values import same_error

_MAX_DIGITS = 4_300  # of an integer that Python reads
_TAG = "tag:yaml.org,2002:"
_TYPES = "text, number, true, false, null, list and object are the types here"


class NotJson(ValueError):
    """A text that is written like JSON and has a value or key that JSON has not."""


def read_documents(path: Path) -> list[Any]:
    """The documents of a YAML or JSON file. Raises ClickException with the line of a mistake."""
    text = read_text(path)
    try:
        if path.suffix == ".json":
            return [parse_json(text)]
        return [each for each in yaml.load_all(text, _Loader) if each is not None]
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        reason = error.problem or error.context
    except json.JSONDecodeError as error:
        place, reason = f", line {error.lineno}, column {error.colno}", f"not JSON: {error.msg}"
    except (yaml.YAMLError, NotJson) as error:
        place, reason = "", str(error).partition("\n")[0]
    except RecursionError:
        place, reason = "", "it is nested too deeply"
    raise click.ClickException(f"{path}{place}: {reason}")


def parse_json(text: str) -> Any:
    """A JSON value. Raises JSONDecodeError for other text, and NotJson."""
    try:
        return json.loads(
            text,
            object_pairs_hook=_object,
            parse_constant=_number,
            parse_float=_number,
            parse_int=_number,
        )
    except json.JSONDecodeError as error:
        raise same_error(error) from None


def _object(members: list[tuple[str, Any]]) -> dict[str, Any]:
    document: dict[str, Any] = {}
    for name, value in members:
        if name in document:
            raise NotJson(f"the key {name!r} is here twice")
        document[name] = value
    return document


def _number(text: str) -> int | float:
    """An integer or a finite float, as YAML 1.2 and JSON write it. Raises NotJson."""
    shown = text if len(text) <= 40 else f"{text[:40]}…"
    if len(text) > _MAX_DIGITS:
        raise NotJson(f"{shown} has more than {_MAX_DIGITS:,} digits")
    if re.fullmatch(r"[-+]?[0-9]+", text):
        return int(text)
    try:
        number = int(text, 0) if text[:2] in ("0x", "0o") else float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise NotJson(f"{shown} is no number in JSON")
    return number


class _Loader(yaml.SafeLoader):
    """Reads YAML 1.2's core schema, and bounds what aliases expand to."""

    yaml_implicit_resolvers = {}  # noqa: RUF012 - as the base class declares them
    yaml_constructors = {}  # noqa: RUF012

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._sizes: dict[yaml.Node, int] = {}  # characters of each complete list and object

    def compose_sequence_node(self, anchor: Any) -> yaml.SequenceNode:
        """A list whose aliases are bounded."""
        node = super().compose_sequence_node(anchor)
        self._measure(node, node.value)
        return node

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """An object whose aliases are bounded, and whose keys are distinct texts."""
        node = super().compose_mapping_node(anchor)
        names = set()
        for at, (key, value) in enumerate(node.value):
            if not isinstance(key, yaml.ScalarNode):
                _refuse(key, "a key is a text")
            if key.tag == f"{_TAG}merge":
                continue
            if key.value in names:
                _refuse(key, f"the key {key.value!r} is here twice")
            names.add(key.value)
            name = yaml.ScalarNode(f"{_TAG}str", key.value, key.start_mark, key.end_mark)
            node.value[at] = (name, value)
        self._measure(node, [each for member in node.value for each in member])
        return node

    def construct_number(self, node: yaml.ScalarNode) -> int | float:
        """A number of JSON."""
        try:
            return _number(str(self.construct_scalar(node)))
        except NotJson as error:
            _refuse(node, f"{error}; in quotes it is a text")

    def construct_bool(self, node: yaml.ScalarNode) -> bool:
        """True or false."""
        word = str(self.construct_scalar(node)).lower()
        if word not in ("true", "false"):
            _refuse(node, f"{word!r} is neither true nor false")
        return word == "true"

    def refuse_tag(self, node: yaml.Node) -> NoReturn:
        """Raises ConstructorError for a tag that JSON has no type for."""
        _refuse(node, f"the tag {node.tag.replace(_TAG, '!!')} has no place here; {_TYPES}")

    def _measure(self, node: yaml.Node, values: list[yaml.Node]) -> None:
        size = 1
        for each in values:
            if isinstance(each, yaml.ScalarNode):
                size += len(each.value) + 1
            elif each in self._sizes:
                size += self._sizes[each]
            else:
                _refuse(each, "an alias inside of what it names")
        if size > MAX_LENGTH:
            _refuse(node, f"its aliases expand it to more than {MAX_LENGTH:,} characters")
        self._sizes[node] = size


def _refuse(node: yaml.Node, reason: str) -> NoReturn:
    raise ConstructorError(None, None, reason, node.start_mark)


for _name, _pattern, _first in (
    ("null", "~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", "true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", "[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", "-+0123456789"),
    (
        "float",
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?"
        r"|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        "-+.0123456789",
    ),
    ("merge", "<<", "<"),
):
    _Loader.add_implicit_resolver(f"{_TAG}{_name}", re.compile(f"(?:{_pattern})\\Z"), list(_first))
for _name in ("null", "str", "seq", "map"):
    _Loader.add_constructor(f"{_TAG}{_name}", getattr(_Loader, f"construct_yaml_{_name}"))
for _name in ("int", "float"):
    _Loader.add_constructor(f"{_TAG}{_name}", _Loader.construct_number)
_Loader.add_constructor(f"{_TAG}bool", _Loader.construct_bool)
_Loader.add_constructor(None, _Loader.refuse_tag)
