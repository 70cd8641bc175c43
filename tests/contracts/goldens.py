"""The golden files, and which answer of which operation each of their bodies is."""

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jsonschema import Draft202012Validator

from tests.support.openapi import Answer, documents

FOLDER = Path(__file__).parent / "golden"
INDEX = FOLDER / "operations.json"
_PLACEHOLDER = re.compile(r"<[\w ]+>|^…$")  # what stands for a value that changes
_EXAMPLES = {
    "uuid": "019d4d34-d078-7000-8000-0000000004e1",
    "date-time": "2026-04-02T08:00:00.120034Z",
    "date-time-local": "2026-04-02T08:00:00.120",
    "integer": 1,
    "number": 1.5,
}


class Entry(NamedTuple):
    """Where a golden body comes from."""

    operation: str
    status: int
    mimetype: str
    test: str  # path and name below this folder


class Body(NamedTuple):
    """A golden body with its name, which is that of its file and of its place in it."""

    name: str
    entry: Entry
    value: Any


def parts(name: str, answer: Any) -> Iterator[tuple[str, int | None, Any]]:
    """The bodies of a golden file by name, with the status where the file has it."""
    if isinstance(answer, list) and len(answer) == 2 and isinstance(answer[0], int):
        yield name, answer[0], answer[1]
    elif isinstance(answer, dict) and answer and all(map(_has_status, answer.values())):
        for part, (status, body) in answer.items():
            yield f"{name}/{part}", status, body
    else:
        yield name, None, answer


def _has_status(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and isinstance(value[0], int)


def index() -> dict[str, Entry]:
    """The entries by the name of the body."""
    stored = json.loads(INDEX.read_text()) if INDEX.exists() else {}
    return {name: Entry(*entry) for name, entry in stored.items()}


def write(entries: dict[str, Entry]) -> None:
    """Write the index anew, a line for each body that there still is."""
    lines = [
        f"  {json.dumps(name)}: {json.dumps(entry)}"
        for name, entry in sorted(entries.items())
        if any((FOLDER / f"{each}.json").exists() for each in (name, name.rpartition("/")[0]))
    ]
    INDEX.write_text("{\n" + ",\n".join(lines) + "\n}\n")


def entries_of(name: str, answer: Any, answers: Sequence[Answer], test: str) -> dict[str, Entry]:
    """The entries of a golden file, by the answers that its test got."""
    return {
        part: Entry(*_source(status, body, answers)[:3], test)
        for part, status, body in parts(name, answer)
    }


def _source(status: int | None, body: Any, answers: Sequence[Answer]) -> tuple[str, int, str]:
    """The latest answer that looks like a golden body; a stream looks like nothing."""
    alike = (
        each
        for each in reversed(answers)
        if status in (None, each.status) and each.data is not None and _alike(body, each.body)
    )
    answer = next(alike, answers[-1])
    return answer.operation, answer.status, answer.mimetype


def _alike(golden: Any, value: Any) -> bool:
    if isinstance(golden, str) and _PLACEHOLDER.search(golden):
        return True
    if isinstance(golden, dict) and isinstance(value, dict):
        return golden.keys() == value.keys() and all(
            _alike(each, value[name]) for name, each in golden.items()
        )
    if isinstance(golden, list) and isinstance(value, list):
        return len(golden) == len(value) and all(
            any(_alike(each, other) for other in value) for each in golden
        )
    return bool(golden == value)


def bodies() -> list[Body]:
    """Every JSON body of the golden files, with values of the documented types as placeholders."""
    entries = index()
    result = []
    for path in sorted(FOLDER.glob("*/*.json")):
        name = f"{path.parent.name}/{path.stem}"
        for part, _, value in parts(name, json.loads(path.read_text())):
            entry = entries[part]
            if entry.mimetype.endswith("json"):
                result.append(Body(part, entry, _exemplified(value, entry)))
    return result


def _exemplified(value: Any, entry: Entry) -> Any:
    schema = documents().schema(entry.operation, entry.status, entry.mimetype)
    assert schema is not None, f"{entry.operation} {entry.status} is not documented"
    return _with_examples(value, schema, schema["components"])


def _with_examples(value: Any, schema: Any, components: Any) -> Any:
    while "$ref" in schema:
        schema = components["schemas"][schema["$ref"].rpartition("/")[2]]
    for branch in schema.get("anyOf", ()):
        candidate = _with_examples(value, branch, components)
        if Draft202012Validator({**branch, "components": components}).is_valid(candidate):
            return candidate
    if isinstance(value, dict):
        members, other = schema.get("properties", {}), schema.get("additionalProperties")
        default = other if isinstance(other, dict) else {}
        return {
            name: _with_examples(each, members.get(name, default), components)
            for name, each in value.items()
        }
    if isinstance(value, list):
        return [_with_examples(each, schema.get("items", {}), components) for each in value]
    if isinstance(value, str) and _PLACEHOLDER.search(value):
        return _example(value, schema)
    return value


def _example(placeholder: str, schema: Any) -> Any:
    types = schema.get("type", [])
    kinds = [schema.get("format"), *(types if isinstance(types, list) else [types])]
    words = schema.get("enum", [placeholder])
    return next((_EXAMPLES[kind] for kind in kinds if kind in _EXAMPLES), words[0])


def members(body: Body) -> list[str]:
    """The documented members that a body has, each once, with dots: `block_runs.id`."""
    schema = documents().schema(body.entry.operation, body.entry.status, body.entry.mimetype)
    return list(dict.fromkeys(_members(body.value, schema, schema["components"], "")))


def _members(value: Any, schema: Any, components: Any, prefix: str) -> Iterator[str]:
    schema = _branch(value, schema, components)
    if isinstance(value, list):
        for each in value:
            yield from _members(each, schema.get("items", {}), components, prefix)
    elif isinstance(value, dict):
        for name in (each for each in value if each in schema.get("properties", {})):
            yield f"{prefix}{name}"
            inner = schema["properties"][name]
            yield from _members(value[name], inner, components, f"{prefix}{name}.")


def _branch(value: Any, schema: Any, components: Any) -> Any:
    """The schema that a reference names, or the alternative that a value has."""
    while "$ref" in schema:
        schema = components["schemas"][schema["$ref"].rpartition("/")[2]]
    for each in schema.get("anyOf", ()):
        if Draft202012Validator({**each, "components": components}).is_valid(value):
            return _branch(value, each, components)
    return schema
