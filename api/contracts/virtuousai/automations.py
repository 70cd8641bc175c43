"""The addresses of automations: list, get, make and run them."""

import hashlib
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from sqlalchemy.orm import Session

from api.contracts.virtuousai import mapping
from api.contracts.virtuousai.requests import AutomationAsked, AutomationsAsked, TriggerAsked
from api.contracts.virtuousai.responses import Automation, AutomationList, Run
from api.contracts.virtuousai.runs import blueprint, identity, refuses
from api.toolkit.context import caller, settings, tenant, transaction
from orchestrator import runs, workflows
from orchestrator.errors import Conflict, Invalid, Mistake
from orchestrator.models import Role, Workflow
from orchestrator.runs import NewRun

ADDRESS = "/api/v1/automations"
TRIGGER = "virtuousai.trigger"  # the endpoint that is about runs
_ONE = f"{ADDRESS}/<automation_id>"
_LONGEST = 100  # characters of a workflow's name
_NAME = re.compile(rf"[A-Za-z0-9][A-Za-z0-9_.\-]{{0,{_LONGEST - 1}}}")
_ACTIVE = "active"


@blueprint.route(ADDRESS)
@blueprint.arguments(AutomationsAsked, location="query")
@blueprint.response(200, AutomationList)
@refuses()
def automations(query: dict[str, Any]) -> dict[str, Any]:
    """List automations

    The newest first. There are neither drafts nor archived ones.
    """
    if query.get("status", _ACTIVE) != _ACTIVE:
        return {"items": [], "total": 0}
    limit, offset = query["limit"], query["offset"]
    with transaction() as session:
        found = workflows.newest(session, tenant(), limit=limit, offset=offset)
        return {"items": _shown(session, found), "total": workflows.count(session, tenant())}


@blueprint.route(_ONE)
@blueprint.response(200, Automation)
@refuses(404)
def automation(automation_id: str) -> dict[str, Any]:
    """Get an automation"""
    with transaction() as session:
        found = workflows.get(session, tenant(), identity(automation_id, "automation_id"))
        return _shown(session, [found])[0]


@blueprint.route(ADDRESS, methods=["POST"])
@blueprint.arguments(AutomationAsked)
@blueprint.response(200, Automation)
@refuses(403, 409)
def make(body: dict[str, Any]) -> dict[str, Any]:
    """Make an automation, or the next version of it

    `config` is a workflow's spec without its name: steps, params and options. The same name with
    another `config` is the automation's next version.
    """
    caller().must_be(Role.ADMIN)
    name, config = body.pop("name"), body.pop("config")
    spec = {**config, "name": _slug(name)}
    if body["description"] is not None:
        spec["description"] = body["description"]
    with transaction() as session:
        with _moved("", "/config"):
            workflow, version, made = workflows.register(session, tenant(), spec)
        is_new = made and version.number == 1
        if not is_new and _name(workflow) != name:
            told = f"Automation {_name(workflow)!r} has too similar a name already; choose another"
            raise Conflict(told)
        workflows.annotate(session, workflow, **{mapping.KEPT: {"name": name, **body}})
        return _shown(session, [workflow])[0]


@blueprint.route(f"{_ONE}/runs", methods=["POST"])
@blueprint.arguments(TriggerAsked, required=False)
@blueprint.response(200, Run)
@refuses(403, 404)
def trigger(body: dict[str, Any], automation_id: str) -> dict[str, Any]:
    """Run an automation

    `input` goes to the parameters of its latest version. With a `concurrencyKey` the run is
    `pending` until no other run of the automation has that key.
    """
    caller().must_be(Role.OPERATOR)
    which = identity(automation_id, "automation_id")
    with transaction() as session:
        workflow = workflows.get(session, tenant(), which)
        new = NewRun(
            workflow=workflow.name,
            params=body["input"] or {},
            concurrency_key=body["concurrency_key"],
            source_type="key",
            source_id=str(caller().key_id),
            submitted_by=caller().submitter,
        )
        with _moved("/params", "/input"):
            run, _ = runs.submit(session, tenant(), new, window=settings().window)
        return mapping.of_runs(session, [runs.get(session, tenant(), run.id)])[0]


def _shown(session: Session, found: Sequence[Workflow]) -> list[dict[str, Any]]:
    """The workflows as automations, by a fixed number of questions."""
    versions = workflows.latest_versions(session, found)
    latest = workflows.latest_runs(session, found)
    return [
        {
            **{"orchestrator_type": "dag", "trigger_type": "manual", **mapping.kept(workflow)},
            "id": workflow.id,
            "tenant_id": workflow.tenant_id,
            "name": _name(workflow),
            "description": workflow.description or None,
            "status": _ACTIVE,
            "config": _config(workflow, versions[workflow.id].spec),
            "source_type": "manual",
            "latest_run": mapping.latest_run(latest.get(workflow.id)),
            "versions_summary": {"count": workflow.version, "active_count": 1, "has_draft": False},
            "created_at": workflow.created_at,
            "updated_at": workflow.updated_at,
        }
        for workflow in found
    ]


def _config(workflow: Workflow, spec: dict[str, Any]) -> dict[str, Any]:
    """The spec without what was given here beside it."""
    kept = mapping.kept(workflow)
    beside = ("name",) if kept.get("description") is None else ("name", "description")
    return {member: value for member, value in spec.items() if member not in beside}


def _name(workflow: Workflow) -> str:
    """As it was given here, else its own."""
    return str(mapping.kept(workflow).get("name", workflow.name))


def _slug(name: str) -> str:
    """A name that a workflow may have."""
    if _NAME.fullmatch(name):
        return name
    plain = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    if name.isascii() and 0 < len(plain) <= _LONGEST:
        return plain
    # What is left of it may be what is left of many others too.
    digest = hashlib.sha256(name.encode()).hexdigest()[:8]
    return f"{plain[: _LONGEST - 1 - len(digest)] or 'automation'}-{digest}"


@contextmanager
def _moved(inside: str, outside: str) -> Iterator[None]:
    """Let mistakes be told where they stand in the request."""
    try:
        yield
    except Invalid as error:
        moved = (
            Mistake(f"{outside}{each.pointer.removeprefix(inside).rstrip('/')}", each.detail)
            for each in error.mistakes
        )
        raise Invalid(str(error), *moved) from None
