"""Parses a workflow's spec, JSON, into a `WorkflowSpec`, or reports every mistake."""

from collections.abc import Mapping
from datetime import timedelta
from graphlib import CycleError, TopologicalSorter
from itertools import islice
from typing import Any

from referencing import Registry

from orchestrator.errors import Invalid, InvalidSpec, Mistake
from orchestrator.hints import closest
from orchestrator.json_values import find_unstorable
from orchestrator.spec import templates
from orchestrator.spec.durations import parse_duration
from orchestrator.spec.json_schema import TrustedValidator
from orchestrator.spec.model import QUEUE_NAME, RetryPolicy, StepSpec, WorkflowSpec
from orchestrator.spec.params import schema_mistakes, to_field_errors
from orchestrator.work_limits import take_step, work_limit

MAX_STEPS = 10_000
MAX_QUEUES = 100  # of one workflow: each is looked after by itself
_MAX_MISTAKES = 20  # of one kind: each hint compares with every key
_MAX_CHECK = 5.0  # seconds of processor time

# `$` alone would match before a final line break.
_NAME = {"type": "string", "pattern": r"^(?!.*\n)[A-Za-z0-9][A-Za-z0-9_.\-]{0,99}$"}
_TITLE = r"^[^\s\x00-\x1f\x7f]([^\x00-\x1f\x7f]{0,198}[^\s\x00-\x1f\x7f])?$(?!\n)"
_KEY = {"type": "string", "pattern": r"^(?!.*\n)[A-Za-z_][A-Za-z0-9_\-]{0,63}$"}
_QUEUE = {"type": "string", "pattern": QUEUE_NAME}
_PRIORITY = {"type": "integer", "minimum": 0, "maximum": 9}
_DURATION = {"type": ["string", "number"]}

RETRY_SCHEMA: dict[str, Any] = {
    "type": "object",
    "additionalProperties": False,
    "properties": {
        "attempts": {"type": "integer", "minimum": 1, "maximum": 1000},
        "delay": _DURATION,
        "backoff": {"type": "number", "minimum": 1, "maximum": 100},
        "max_delay": _DURATION,
        "jitter": {"type": "number", "minimum": 0, "maximum": 1},
        "on": {"type": "array", "items": {"type": "string"}, "maxItems": 50},
    },
}
STEP_SCHEMA: dict[str, Any] = {
    "type": "object",
    "additionalProperties": False,
    "required": ["key", "uses"],
    "properties": {
        "key": _KEY,
        "name": {"type": "string", "maxLength": 200},
        "uses": {"type": "string", "pattern": r"^(?!.*\n)[A-Za-z_][A-Za-z0-9_.:\-]{0,199}$"},
        "with": {"type": "object"},
        "needs": {"type": "array", "items": _KEY, "uniqueItems": True, "maxItems": MAX_STEPS},
        "when": {"type": ["string", "boolean"], "maxLength": 4000},
        "retry": RETRY_SCHEMA,
        "timeout": _DURATION,
        "queue": _QUEUE,
        "priority": _PRIORITY,
        "allow_failure": {"type": "boolean"},
        "enabled": {"type": "boolean"},
    },
}
SPEC_SCHEMA: dict[str, Any] = {
    "type": "object",
    "additionalProperties": False,
    "required": ["name", "steps"],
    "properties": {
        "name": _NAME,
        "service": {"type": "string", "maxLength": 100},
        "description": {"type": "string", "maxLength": 4000},
        "title": {"type": "string", "pattern": _TITLE},
        "queue": _QUEUE,
        "priority": _PRIORITY,
        "timeout": _DURATION,
        "sla": _DURATION,
        "tags": {"type": "array", "items": {"type": "string", "maxLength": 100}, "maxItems": 50},
        "params": {"type": "object"},
        "steps": {"type": "array", "minItems": 1, "maxItems": MAX_STEPS, "items": STEP_SCHEMA},
    },
}
# An empty registry: a `$ref` to another document is refused instead of fetched.
_VALIDATOR = TrustedValidator(SPEC_SCHEMA, registry=Registry())


def parse_spec(document: Any) -> WorkflowSpec:
    """Check a spec and fill in its defaults. Raises InvalidSpec with every mistake."""
    try:
        with work_limit(_MAX_CHECK, "the check of the spec"):
            return _parse(document)
    except InvalidSpec:
        raise
    except Invalid as error:
        raise InvalidSpec(str(error), *error.mistakes) from None


def _parse(document: Any) -> WorkflowSpec:
    unusable = find_unstorable(document)
    mistakes = [unusable] if unusable else _shape_mistakes(document)
    mistakes = mistakes or _size_mistakes(document)
    if mistakes:
        raise InvalidSpec("the spec is not a workflow", *mistakes)
    mistakes += schema_mistakes(document.get("params", {}))
    timeout = _duration(document, "timeout", "", mistakes)
    _duration(document, "sla", "", mistakes)
    steps: list[StepSpec] = []
    for at, step in enumerate(document["steps"]):
        before = (steps[-1].key,) if steps else ()
        steps.append(_read_step(step, before, f"/steps/{at}", mistakes))
    mistakes += _graph_mistakes(steps)
    if mistakes:
        raise InvalidSpec("the spec is not a workflow", *mistakes)
    options = _options(document, "title", "service", "description", "queue", "priority", "params")
    options["tags"] = tuple(document.get("tags", ()))
    return WorkflowSpec(name=document["name"], steps=tuple(steps), timeout=timeout, **options)


def _shape_mistakes(document: Any) -> list[Mistake]:
    steps = document.get("steps") if isinstance(document, dict) else None
    if isinstance(steps, list) and len(steps) > MAX_STEPS:
        return [
            Mistake("/steps", f"{len(steps):,} steps are too long a list; {MAX_STEPS:,} are taken")
        ]
    return list(islice(to_field_errors(_VALIDATOR.iter_errors(document)), _MAX_MISTAKES))


def _size_mistakes(document: Mapping[str, Any]) -> list[Mistake]:
    """Why a spec of the right shape is too large a one."""
    steps = document["steps"]
    queues = {document.get("queue"), *(step.get("queue") for step in steps)} - {None}
    mistakes = []
    if len(queues) > MAX_QUEUES:
        detail = f"{len(queues):,} queues are too many; {MAX_QUEUES} are taken"
        mistakes.append(Mistake("/steps", detail))
    characters = sum(templates.length(step.get("with")) for step in steps)
    if characters > templates.MAX_TOTAL:
        detail = f"templates of {characters:,} characters; {templates.MAX_TOTAL:,} are taken"
        mistakes.append(Mistake("/steps", detail))
    return mistakes


def _read_step(
    document: dict[str, Any], before: tuple[str, ...], place: str, mistakes: list[Mistake]
) -> StepSpec:
    needs = tuple(document.get("needs", before))
    when = document.get("when")
    if isinstance(when, bool):
        when = "true" if when else "false"
    read = _steps_read(document.get("with", {}), f"{place}/with", mistakes)
    if when is not None:
        try:
            when = templates.check_condition(when)
            read |= templates.referenced_steps("{{ " + when + " }}")
        except templates.TemplateError as error:
            mistakes.append(Mistake(f"{place}/when", str(error)))
    return StepSpec(
        key=document["key"],
        uses=document["uses"],
        args=document.get("with", {}),
        needs=needs,
        reads=(*needs, *sorted(read - set(needs))),
        when=when,
        retry=_read_retry(document["retry"], place, mistakes) if "retry" in document else None,
        timeout=_duration(document, "timeout", place, mistakes),
        **_options(document, "name", "queue", "priority", "allow_failure", "enabled"),
    )


def _steps_read(value: Any, place: str, mistakes: list[Mistake]) -> set[str]:
    try:
        return templates.referenced_steps(value)
    except templates.TemplateError as error:
        mistakes.append(Mistake(place, str(error)))
        return set()


def _read_retry(document: dict[str, Any], place: str, mistakes: list[Mistake]) -> RetryPolicy:
    place = f"{place}/retry"
    delays = ("delay", "max_delay")
    wrong = [name for name in delays if _duration(document, name, place, mistakes) is None]
    return RetryPolicy.from_spec({n: v for n, v in document.items() if n not in wrong})


def _options(document: dict[str, Any], *names: str) -> dict[str, Any]:
    """Those of these options that the document has: the others have their defaults."""
    options = {name: document[name] for name in names if name in document}
    if "priority" in options:
        options["priority"] = int(options["priority"])  # 4.0 is an integer to JSON Schema
    return options


def _duration(
    document: dict[str, Any], name: str, place: str, mistakes: list[Mistake]
) -> timedelta | None:
    if name not in document:
        return None
    try:
        duration = parse_duration(document[name])
    except ValueError as error:
        mistakes.append(Mistake(f"{place}/{name}", str(error)))
        return None
    if name in ("timeout", "sla") and not duration:
        mistakes.append(Mistake(f"{place}/{name}", f"a {name} must be longer than nothing"))
    return duration


def _graph_mistakes(steps: list[StepSpec]) -> list[Mistake]:
    seen: dict[str, int] = {}
    mistakes = []
    for at, step in enumerate(steps):
        if (first := seen.setdefault(step.key, at)) != at:
            detail = f"{step.key!r} is the key of /steps/{first} too"
            mistakes.append(Mistake(f"/steps/{at}/key", detail))
    for at, step in enumerate(steps):
        for each, key in enumerate(step.needs):
            if key not in seen and len(mistakes) < _MAX_MISTAKES:
                near = closest(key, seen)
                hint = f"; did you mean {near!r}?" if near else ""
                detail = f"no step has the key {key!r}{hint}"
                mistakes.append(Mistake(f"/steps/{at}/needs/{each}", detail))
    if not any(step.enabled for step in steps):
        mistakes.append(Mistake("/steps", "at least one step must be enabled"))
    return mistakes or _order_mistakes(steps, seen)


def _order_mistakes(steps: list[StepSpec], places: dict[str, int]) -> list[Mistake]:
    needs = {step.key: step.needs for step in steps}
    try:
        TopologicalSorter(needs).prepare()
    except CycleError as error:
        circle = list(reversed(error.args[1]))
        where = f"/steps/{places[circle[0]]}/needs"
        return [Mistake(where, f"the steps need each other in a circle: {' → '.join(circle)}")]
    ancestors = _ancestors(needs, places)
    mistakes = []
    for at, step in enumerate(steps):
        take_step()
        for key in step.reads:
            if key in places and ancestors[step.key] >> places[key] & 1:
                continue
            why = "does not run before this step" if key in places else "does not exist"
            mistakes.append(Mistake(f"/steps/{at}", f"a template reads step {key!r}, which {why}"))
    return mistakes[:_MAX_MISTAKES]


def _ancestors(needs: Mapping[str, tuple[str, ...]], places: Mapping[str, int]) -> dict[str, int]:
    """By key: the positions of all that it needs, directly or not, as a set of bits."""
    ancestors: dict[str, int] = {}
    for key in TopologicalSorter(needs).static_order():
        take_step()
        ancestors[key] = 0
        for need in needs[key]:
            ancestors[key] |= ancestors[need] | 1 << places[need]
    return ancestors
