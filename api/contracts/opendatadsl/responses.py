"""The bodies and queries of this API; those of executions are documented here, not used."""

from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

from marshmallow import INCLUDE, Schema, fields, missing, validate

from api.contracts.opendatadsl.vocabulary import DEFAULT_SERVICE, STATUSES
from api.toolkit.wire import WireSchema, computed, constant, described, enumeration, optional

_BUILD = version("orchestrator")
_STARTED_AT = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")

_NAMELESS = "the name of a process is wanted, as a text"


def _name(view: Any) -> str:
    return str(view.workflow.title or view.workflow.name)


def _text(description: str, **metadata: object) -> fields.String:
    return fields.String(metadata={"description": description, **metadata})


def _instant(description: str) -> fields.String:
    return _text(f"{description}; UTC with milliseconds", format="date-time")


def _parameters(description: str) -> fields.Dict:
    return fields.Dict(
        allow_none=True, metadata={"description": description},
        error_messages={"invalid": "an object of parameters is wanted"},
    )  # fmt: skip


class Build(WireSchema):
    """What answers."""

    service = _text("process-exec or process")
    version = constant(_text("of the API"), "1.0.0")
    build = constant(_text("of the server"), _BUILD)
    timestamp = constant(_instant("when this server began"), _STARTED_AT)


class Phase(WireSchema):
    """One step of an execution, from its start on."""

    name = _text("of the phase")
    start = _instant("when it began")
    end = optional(_instant("when it ended; absent until then"))
    status = enumeration(["running", "success", "failed"])
    message = _text("what it says now")
    log = fields.List(fields.String(), metadata={"description": "its last lines"})


class Data(WireSchema):
    """What was written: dates with lists of ids."""

    curves = fields.Dict(keys=fields.String(), values=fields.List(fields.String()))
    series = fields.Dict(keys=fields.String(), values=fields.List(fields.String()))


class Execution(WireSchema):
    """One execution of a process. A member that is not known is absent."""

    _id = _text("of the execution")
    service = _text("the category of the process")
    name = _text("of the process")
    environment = _text("the data environment")
    trigger = enumeration(["scheduled", "manual", "subscription"])
    reason = _text("why it was executed")
    triggerTime = optional(_instant("the instant of its schedule"))  # noqa: N815 - published so
    start = optional(_instant("when it began"))
    end = optional(_instant("when it ended"))
    runAs = _text("whose rights apply")  # noqa: N815 - published so
    status = enumeration(STATUSES, "those behind `failed` only for a tenant that enables them")
    message = _text("what it says now")
    phases = fields.List(fields.Nested(Phase))
    loaderMessage = optional(  # noqa: N815 - published so
        _text("what the last step says that loaded data, or is called LOAD; absent without one")
    )
    data = optional(fields.Nested(Data))
    parentId = optional(_text("the execution that it repeats"))  # noqa: N815 - published so


class Part(WireSchema):
    """The members of an execution that `_project` names, or a group of executions."""

    class Meta:
        unknown = INCLUDE


# What a list has, by its query: executions, parts of them or groups, or with `_distinct` values.
ROWS = {"type": "array", "items": {"anyOf": [Execution, Part, {"type": "string"}]}}
# An execution, or the part of it that `_project` names.
ONE = {"anyOf": [Execution, Part]}
REFUSAL = {
    "type": "string",
    "description": "the reason phrase; the header `x-odsl-error` says why",
}


class Trigger(Schema):
    """Which process to execute, and with what."""

    error_messages = {"type": "an object is wanted"}  # noqa: RUF012 - marshmallow's own name

    name = fields.String(
        required=True, validate=validate.Length(min=1, error=_NAMELESS),
        metadata={"description": "of the process"},
        error_messages=dict.fromkeys(("required", "null", "invalid"), _NAMELESS),
    )  # fmt: skip
    body = _parameters("its parameters")
    input = _parameters("its parameters too; `body` wins")


# Descriptions of query parameters.
PAGE = {
    "_limit": "100 by default; -1 is 10,000, the most",
    "_skip": "how many to pass over",
}
PROJECTION = {"_project": "the fields to show, with commas"}
# Any other name is a field, and its value or function what it must be.
SEARCH = {
    "_filter": "`(status=failed or status=warning) and name=ECB_FX`, or a JSON document",
    "_search": "words, `|` or, `-` not, `( )` groups, `field=pattern`, `field==value`",
    **PAGE,
    "_sort": "`name,-start` or a JSON document; by default the latest start is first",
    **PROJECTION,
    "_distinct": "a field: gives its different values",
    "_fieldinfo": "a field: gives its values, how many have each, and its filter",
    "_aggregate": "a JSON pipeline of $match, $group, $sort, $skip, $limit and $project",
    "name": "a field as a filter: a value, or range(a,b), gt(a), in(a, b), regex(p) …",
    "status": "a field as a filter",
    "start": "a field as a filter, as in range(2026-03-01,2026-03-31)",
}
TRIGGER_QUERY = {"_reason": "why", "_delay": "milliseconds before the start"}


class ProcessBody(Schema):
    """A process to create, or its next version."""

    error_messages = {"type": "an object is wanted"}  # noqa: RUF012 - marshmallow's own name

    name = fields.String(
        required=True, validate=validate.Length(min=1, max=200, error=_NAMELESS),
        metadata={"description": "of the process"},
        error_messages=dict.fromkeys(("required", "null", "invalid"), _NAMELESS),
    )  # fmt: skip
    service = fields.String(allow_none=True, metadata={"description": "its category"})
    description = fields.String(allow_none=True, metadata={"description": "what it is for"})
    workflow = fields.String(
        allow_none=True, metadata={"description": "the workflow that it runs; a `#` is left out"}
    )
    script = fields.String(allow_none=True, metadata={"description": "refused"})
    cron = fields.String(
        allow_none=True, metadata={"description": "with seconds, as in `0 30 16 ? * MON-FRI *`"}
    )
    enabled = fields.Boolean(metadata={"description": "whether its schedule starts it"})
    input = _parameters("the defaults of its parameters")
    tags = fields.List(fields.String(), allow_none=True)


class Rename(Schema):
    """The new name of a process."""

    _id = fields.String(
        required=True, validate=validate.Length(min=1, max=200, error=_NAMELESS),
        error_messages=dict.fromkeys(("required", "null", "invalid"), _NAMELESS),
    )  # fmt: skip


class Process(WireSchema):
    """A process that can be executed."""

    _id = computed(_text("its name"), _name)
    _type = constant(_text("always VarProcess"), "VarProcess")
    _version = described(fields.Integer, "of the configuration", attribute="version.number")
    service = computed(
        _text("its category"), lambda view: view.version.spec.get("service") or DEFAULT_SERVICE
    )
    name = computed(_text("of the process"), _name)
    description = computed(
        _text("what it is for"), lambda view: view.version.spec.get("description", "")
    )
    enabled = computed(
        fields.Boolean,
        lambda view: view.schedule is None or view.schedule.active,
        "whether its schedule starts it; it can be triggered in any case",
    )
    cron = optional(
        computed(
            _text("its schedule: five fields; absent without one"),
            lambda view: view.schedule.cron if view.schedule else missing,
        )
    )
    workflow = computed(_text("the workflow that it runs: its own"), _name)
    tags = computed(fields.List(fields.String()), lambda view: view.version.spec.get("tags", []))


# Processes, or with `_distinct` values of one of their fields.
PROCESSES = {"type": "array", "items": {"anyOf": [Process, {"type": "string"}]}}
