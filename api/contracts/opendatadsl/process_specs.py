"""A process as it is written here, as a workflow's spec and a schedule."""

import hashlib
import re
from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from sqlalchemy.orm import Session

from api.contracts.opendatadsl.errors import invalid
from orchestrator import schedules, workflows
from orchestrator.errors import NotFound
from orchestrator.models import Schedule, ScheduleType, Workflow
from orchestrator.schedules import NewSchedule, ScheduleFilter

_SETTINGS = {"opendatadsl.process": True}  # of the schedule that `cron` makes
_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.\-]{0,99}")
_DAYS = re.compile(r"(?<![/#\w])[1-7](?!\w)")
_MAX_PLAIN = 91  # characters, without the digest
_MAX_SCHEDULES = 10_000  # of an answer
_COPIED = ("service", "description", "tags")


def spec_of(session: Session, tenant_id: UUID, body: Mapping[str, Any]) -> dict[str, Any]:
    """The spec of a process. Raises Invalid for a workflow that does not exist."""
    if body.get("script"):
        raise invalid("/script", "scripts are not run here; name a workflow", "process")
    own = _workflow(session, tenant_id, body["name"])
    named = str(body.get("workflow") or "").removeprefix("#") or body["name"]
    source = _workflow(session, tenant_id, named)
    if source is None:
        raise invalid("/workflow", f"there is no workflow {named!r}", "process")
    spec = dict(workflows.get_version(session, source).spec)
    spec["name"] = own.name if own else _plain(session, tenant_id, body["name"])
    title = own.title if own else body["name"]
    spec.pop("title", None)
    if title not in (None, spec["name"]):
        spec["title"] = title
    spec |= {name: body[name] for name in _COPIED if body.get(name) is not None}
    if body.get("input"):
        spec["params"] = _with_defaults(spec.get("params", {}), body["input"])
    return spec


def schedule(
    session: Session, tenant_id: UUID, workflow: Workflow, body: Mapping[str, Any], maker: str
) -> None:
    """Create the schedule of a process, or change it. Raises Invalid for the cron expression."""
    known = schedules_of(session, tenant_id, [workflow]).get(workflow.name)
    changes: dict[str, Any] = {"active": body.get("enabled", True)}
    if body.get("cron"):
        changes["cron"] = to_cron(body["cron"])
    if known:
        schedules.change_schedule(session, tenant_id, known.id, **changes)
    elif "cron" in changes:
        new = NewSchedule(
            workflow=workflow.name,
            type=ScheduleType.CRON,
            settings=_SETTINGS,
            created_by=maker,
            **changes,
        )
        schedules.create_schedule(session, tenant_id, new)


def schedules_of(
    session: Session, tenant_id: UUID, rows: Sequence[Workflow]
) -> Mapping[str, Schedule]:
    """The schedules that `cron` made, by the names of their workflows."""
    name = rows[0].name if len(rows) == 1 else None
    which = ScheduleFilter(workflow=name, settings=_SETTINGS)
    known = schedules.page_of_schedules(session, tenant_id, which, limit=_MAX_SCHEDULES)
    return {each.workflow: each for each in known}


def to_cron(text: str) -> str:
    """The five fields of an expression with seconds, `?`, and Sunday as 1. Raises Invalid."""
    fields = text.split()
    if len(fields) == 5:
        return text
    if len(fields) not in (6, 7) or fields[6:] not in ([], ["*"]):
        detail = "write seconds, minutes, hours, day of month, month and day of week"
        raise invalid("/cron", detail, "process")
    minute, hour, day, month, weekday = ("*" if field == "?" else field for field in fields[1:6])
    weekday = _DAYS.sub(lambda match: str(int(match[0]) - 1), weekday)
    return " ".join((minute, hour, day, month, weekday))


def _workflow(session: Session, tenant_id: UUID, name: str) -> Workflow | None:
    try:
        return workflows.by_title(session, tenant_id, name)
    except NotFound:
        return None


def _plain(session: Session, tenant_id: UUID, name: str) -> str:
    """A name that no workflow has, for a process of this name."""
    if _PLAIN.fullmatch(name):
        return name
    plain = re.sub(r"[^A-Za-z0-9]+", "_", name).strip("_")[:_MAX_PLAIN] or "process"
    if _workflow(session, tenant_id, plain) is None:
        return plain
    return f"{plain}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def _with_defaults(params: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """The schema of parameters with these values as their defaults."""
    properties = dict(params.get("properties", {}))
    for name, value in values.items():
        schema = properties.get(name, {})
        properties[name] = {**(schema if isinstance(schema, dict) else {}), "default": value}
    required = [name for name in params.get("required", ()) if name not in values]
    rest = {name: value for name, value in params.items() if name != "required"}
    return {
        "type": "object",
        **rest,
        "properties": properties,
        **({"required": required} if required else {}),
    }
