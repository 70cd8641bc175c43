"""Parameters and files as SolveXia has them: properties of the steps that use or make them."""

import json
import re
from collections.abc import Mapping
from typing import Any

from api.contracts.solvexia.ids import MOST_PARAMETERS, property_id
from orchestrator.models import Artifact

FILE = "File"
_TYPES = {"boolean": "CheckBox", "integer": "Number", "number": "Decimal"}
_FORMATS = {"date": "Datepicker", "date-time": "Datepicker", "file": FILE}
_MENTIONED = re.compile(r"""\bparams\s*(?:\.\s*(\w+)|\[\s*\\?["'](.*?)\\?["']\s*\])""")


def names_of_step(spec: Mapping[str, Any], place: int) -> dict[int, str]:
    """The parameters of a workflow that one of its steps uses, by their position among all.

    Those that no step's templates name belong to the first step.
    """
    mentioned = [_mentioned(step) for step in spec["steps"]]
    wanted = mentioned[place]
    if place == 0:
        wanted = wanted | (set(_schemas(spec)) - set().union(*mentioned))
    names = list(_schemas(spec))[:MOST_PARAMETERS]
    return {position: name for position, name in enumerate(names) if name in wanted}


def shown(
    spec: Mapping[str, Any], step: int, position: int, name: str, values: Mapping[str, Any]
) -> dict[str, Any]:
    """One parameter as `PropertyShown` shows it."""
    schema = schema_of(spec, name)
    kind = data_type(schema)
    told = {
        "id": property_id(step, position),
        "name": name,
        "data_type": kind,
        "required": name in spec.get("params", {}).get("required", ()),
        "visible": True,
        "information_flow_type": "INPUT",
        "mouseover_text": str(schema.get("description", "")),
        "file" if kind == FILE else "value": values.get(name, schema.get("default")),
    }
    return told | ({"options": schema["enum"]} if kind == "Dropdown" else {})


def left(wire_id: str, file: Artifact) -> dict[str, Any]:
    """A file that the step left, as `PropertyShown` shows it."""
    return {
        "id": wire_id,
        "name": file.name,
        "data_type": FILE,
        "required": False,
        "visible": True,
        "information_flow_type": "OUTPUT",
        "mouseover_text": file.title,
        "file": f"f-{file.number}",
    }


def data_type(schema: Mapping[str, Any]) -> str:
    """What this API calls the type of a parameter."""
    if "enum" in schema:
        return "Dropdown"
    known = _FORMATS.get(str(schema.get("format")))
    return known or _TYPES.get(_type(schema), "String")


def read(schema: Mapping[str, Any], value: Any) -> Any:
    """The value as the parameter has it: a form's client sends numbers and ticks as text."""
    if not isinstance(value, str):
        return value
    text, kind = value.strip(), _type(schema)
    if kind == "boolean" and text.lower() in ("true", "false"):
        return text.lower() == "true"
    if kind == "integer" and re.fullmatch(r"[+-]?[0-9]{1,300}", text):
        return int(text)
    if kind == "number" and re.fullmatch(r"[+-]?[0-9]{1,300}(\.[0-9]{1,300})?", text):
        return float(text)
    return value


def schema_of(spec: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """What a parameter must look like; `true` in a JSON Schema is like anything."""
    schema = _schemas(spec)[name]
    return schema if isinstance(schema, Mapping) else {}


def _schemas(spec: Mapping[str, Any]) -> Mapping[str, Any]:
    found: Mapping[str, Any] = spec.get("params", {}).get("properties", {})
    return found


def _mentioned(step: Mapping[str, Any]) -> set[str]:
    templates = json.dumps([step.get("with"), step.get("when")], ensure_ascii=False)
    return {dotted or quoted for dotted, quoted in _MENTIONED.findall(templates)}


def _type(schema: Mapping[str, Any]) -> str:
    kinds = schema.get("type", "string")
    named = [kinds] if isinstance(kinds, str) else kinds
    return next((kind for kind in named if kind != "null"), "string")
