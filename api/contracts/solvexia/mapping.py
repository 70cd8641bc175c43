"""Between SolveXia's ids and properties and the core's rows and parameters.

An id is a prefix for the kind and the number of the row. The steps of a run are rows, the steps of
a process are not: their numbers start where no row's number reaches, so the id alone tells them
apart. Properties are numbered in the same way, within their step, and so are the files that may be
uploaded for them.
"""

import json
import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any, NamedTuple

from marshmallow import missing

from api.contracts.solvexia.vocabulary import DROPDOWN, FILE, data_type, json_type
from orchestrator.errors import NotFound
from orchestrator.models import Artifact, Run, Step, Workflow
from orchestrator.outputs.summaries import StepOutput
from orchestrator.spec.hidden_params import Parts, hide, parts_at
from orchestrator.spec.parser import MAX_STEPS
from orchestrator.states import SkipCause

NOBODY = "system"  # the user name of rows that have none
_NUMBER = re.compile(r"[1-9][0-9]{0,18}")
_FIRST_PROCESS_STEP = 9_000_000_000_000
_FIRST_INPUT_FILE = 5_000_000_000_000_000
MAX_PARAMETERS = 500  # of one process that have an id
MAX_FILES = 500  # of one step that have an id as properties, behind the parameters
_MAX_PROPERTIES = MAX_PARAMETERS + MAX_FILES
_PARAMETER = re.compile(r"""\bparams\s*(?:\.\s*(\w+)|\[\s*\\?["']([^"'\\]{0,200})\\?["']\s*\])""")


class RunView(NamedTuple):
    """A run, the id of its process, and the time of its last event."""

    run: Run
    process: str
    date_modified: datetime


class StatusView(NamedTuple):
    """A run, or a step under the id of the request with its output."""

    wire_id: str
    row: Run | Step
    output: StepOutput = StepOutput()
    since: datetime | None = (
        None  # a run's first start; of the step that it is restarted from, when
    )

    @property
    def started_at(self) -> datetime | None:
        """When it began, as it is shown."""
        return self.since or self.row.started_at

    @property
    def restarts(self) -> bool:
        """Whether it was restarted and waits for a worker: it counts as running."""
        return bool(self.since) and self.row.started_at is None and self.row.finished_at is None


class DataStepView(NamedTuple):
    """A step of a process or of a run."""

    number: int
    place: int  # in the spec, from 0
    name: str
    is_enabled: bool

    @property
    def step_order(self) -> str:
        return f"1.{self.place + 1}"


class PropertyView(NamedTuple):
    """A parameter, or a file that the step left, as a property of a step."""

    step: int
    position: int
    name: str
    data_type: str
    value: Any = missing
    file: Any = missing
    required: bool = False
    flow: str = "INPUT"
    text: str = ""
    options: Any = missing

    @property
    def wire_id(self) -> str:
        return f"dsprop-{self.step * _MAX_PROPERTIES + self.position}"


def parse_id(wire_id: str, kind: str, *prefixes: str) -> int:
    """The number in an id. Raises NotFound for another form."""
    prefix, _, digits = wire_id.partition("-")
    if prefix not in prefixes or not _NUMBER.fullmatch(digits):
        example = f"{prefixes[0]}-123"
        raise NotFound(f"there is no {kind} {wire_id[:100]!r}; its id looks like {example}")
    return int(digits)


def process_step_number(process: int, place: int) -> int:
    """The number in the id of a process's step, by its place in the spec, from 0."""
    return _FIRST_PROCESS_STEP + process * MAX_STEPS + place


def process_and_place(number: int) -> tuple[int, int] | None:
    """The process and the place of its step by the number in its id; None for a step of a run."""
    first = _FIRST_PROCESS_STEP
    return divmod(number - first, MAX_STEPS) if number >= first else None


def input_file_id(step: int, position: int) -> str:
    """The id of the file that may be uploaded for a property of a run's step."""
    return f"f-{_FIRST_INPUT_FILE + step * _MAX_PROPERTIES + position}"


def step_and_position(number: int) -> tuple[int, int] | None:
    """The step and the position of the property by the number of its file; None for others."""
    first = _FIRST_INPUT_FILE
    return divmod(number - first, _MAX_PROPERTIES) if number >= first else None


def run_name(run: Any) -> str:
    """`<process> : run #n`, with the prefix that it was created with; n counts the process's runs.

    A run of an earlier release keeps the name that it had, with its number.
    """
    name = f"{run.workflow} : run #{run.ordinal or run.number}"
    return run.name if run.name is not None and run.name.endswith(f" {name}") else name


def user_name(row: Any) -> str:
    """The user of a run, or of an event of one."""
    return row.submitted_by or row.run_as or NOBODY


def run_step(step: Step, place: int) -> DataStepView:
    """The view of a step of a run."""
    return DataStepView(step.number, place, step.name, step.skip_cause != SkipCause.DISABLED)


def process_step(workflow: Workflow, spec: Mapping[str, Any], place: int) -> DataStepView:
    """The view of a step of a process."""
    step, number = spec["steps"][place], process_step_number(workflow.number, place)
    return DataStepView(number, place, step.get("name") or step["key"], step.get("enabled", True))


def names_of_step(spec: Mapping[str, Any], place: int) -> dict[int, str]:
    """The parameters that a step of a workflow uses, by their position among all.

    Those that no step's templates name belong to the first step.
    """
    used = [_used(step) for step in spec["steps"]]
    parameters = list(spec.get("params", {}).get("properties", {}))
    names = used[place] if place else used[0] | set(parameters).difference(*used)
    first = enumerate(parameters[:MAX_PARAMETERS])
    return {position: name for position, name in first if name in names}


def parameter(
    spec: Mapping[str, Any],
    step: int,
    position: int,
    name: str,
    values: Mapping[str, Any],
    hidden: Parts,
) -> PropertyView:
    """A parameter as a property of a step, without its hidden parts."""
    schema = schema_of(spec, name)
    kind = data_type(schema)
    value = values.get(name, schema.get("default"))
    if value is not None:
        value = hide(parts_at(hidden, [name]), value)
    return PropertyView(
        step, position, name, kind, **{"file" if kind == FILE else "value": value},
        required=name in spec.get("params", {}).get("required", ()),
        text=str(schema.get("description", "")),
        options=schema["enum"] if kind == DROPDOWN else missing,
    )  # fmt: skip


def output_file(step: int, position: int, file: Artifact) -> PropertyView:
    """A file that a step left as a property of the step."""
    return PropertyView(
        step, position, file.name, FILE, file=f"f-{file.number}", flow="OUTPUT", text=file.title
    )


def parse_value(schema: Mapping[str, Any], value: Any) -> Any:
    """The value of a parameter; forms send numbers and ticks as text."""
    if not isinstance(value, str):
        return value
    text, kind = value.strip(), json_type(schema)
    if kind == "boolean" and text.lower() in ("true", "false"):
        return text.lower() == "true"
    if kind == "integer" and re.fullmatch(r"[+-]?[0-9]{1,300}", text):
        return int(text)
    if kind == "number" and re.fullmatch(r"[+-]?[0-9]{1,300}(\.[0-9]{1,300})?", text):
        return float(text)
    return value


def schema_of(spec: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """The JSON Schema of a parameter; `true` and `{}` are the same."""
    schema = spec["params"]["properties"][name]
    return schema if isinstance(schema, Mapping) else {}


def _used(step: Mapping[str, Any]) -> set[str]:
    templates = json.dumps([step.get("with"), step.get("when")], ensure_ascii=False)
    return {dotted or quoted for dotted, quoted in _PARAMETER.findall(templates)}
