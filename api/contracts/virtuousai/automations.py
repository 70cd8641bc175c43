"""The addresses of automations: list, get, make and run them."""

import hashlib
import re
from typing import Any

from sqlalchemy.orm import Session

from api.contracts.virtuousai import mapping
from api.contracts.virtuousai.mapping import AutomationView, RunView, automation_views, run_views
from api.contracts.virtuousai.requests import (
    AutomationBody,
    AutomationChange,
    AutomationsQuery,
    TriggerBody,
)
from api.contracts.virtuousai.responses import Automation, AutomationList, Run
from api.contracts.virtuousai.surface import AUTOMATIONS, answers, blueprint, path_id
from api.contracts.virtuousai.vocabulary import ACTIVE
from api.toolkit import paging
from api.toolkit.context import caller, settings, tenant, transaction
from api.toolkit.wire import relocated
from orchestrator import runs, workflows
from orchestrator.errors import Conflict, Invalid, Mistake
from orchestrator.models import Workflow
from orchestrator.runs import NewRun

_ONE = f"{AUTOMATIONS}/<automation_id>"
_MAX_NAME = 100  # characters of a workflow's name
_NAME = re.compile(rf"[A-Za-z0-9][A-Za-z0-9_.\-]{{0,{_MAX_NAME - 1}}}")


@blueprint.route(AUTOMATIONS, resources="workflows")
@blueprint.arguments(AutomationsQuery, location="query")
@answers(AutomationList)
def automations(query: dict[str, Any]) -> dict[str, Any]:
    """List automations

    The newest first. There are neither drafts nor archived ones.
    """
    if query.pop("status", ACTIVE) != ACTIVE:
        return {"items": [], "total": 0}
    part = paging.OffsetPage(query["offset"], query["limit"])
    before = part.after[0] if part.after else None
    with transaction() as session:
        rows = workflows.newest(
            session, tenant(), limit=query["limit"], offset=part.skip, before=before
        )
        total = workflows.count(session, tenant()) if part.total is None else part.total
        part.end([(row.id,) for row in rows], total)
        return {"items": automation_views(session, rows), "total": total}


@blueprint.route(_ONE, resources="workflows")
@answers(Automation, 404)
def automation(automation_id: str) -> AutomationView:
    """Get an automation"""
    with transaction() as session:
        workflow = workflows.get(session, tenant(), path_id(automation_id, "automation_id"))
        return automation_views(session, [workflow])[0]


@blueprint.route(AUTOMATIONS, methods=["POST"], resources="workflows")
@blueprint.arguments(AutomationBody)
@answers(Automation, 403, 409)
def make(body: dict[str, Any]) -> AutomationView:
    """Make an automation

    `config` is a workflow's spec without its name: steps, params and options. A name that another
    automation has is a conflict; `PUT` makes the next version of one.
    """
    name = body["name"]
    with transaction() as session:
        workflow, is_new = _register(session, _slug(name), body)
        if not is_new:
            raise _conflict(workflow, name)
        return _shown(session, workflow, body)


@blueprint.route(_ONE, methods=["PUT"], resources="workflows")
@blueprint.arguments(AutomationChange)
@answers(Automation, 403, 404)
def change(body: dict[str, Any], automation_id: str) -> AutomationView:
    """Make the next version of an automation

    Runs that exist keep their version. The same `config` makes none. An automation keeps its name.
    """
    with transaction() as session:
        workflow = workflows.get(session, tenant(), path_id(automation_id, "automation_id"))
        name = mapping.name_of(workflow)
        if body.setdefault("name", name) != name:
            message = f"The automation keeps its name, which is {name!r}; make another one"
            raise Invalid(message, Mistake("/name", message))
        workflow, _ = _register(session, workflow.name, body)
        return _shown(session, workflow, body)


@blueprint.route(f"{_ONE}/runs", methods=["POST"])
@blueprint.arguments(TriggerBody, required=False)
@answers(Run, 403, 404)
def trigger(body: dict[str, Any], automation_id: str) -> RunView:
    """Run an automation

    `input` goes to the parameters of its latest version. With a `concurrencyKey` the run is
    `pending` until no other run of the automation has that key.
    """
    with transaction() as session:
        workflow = workflows.get(session, tenant(), path_id(automation_id, "automation_id"))
        new = NewRun(
            workflow=workflow.name,
            params=body["input"] or {},
            concurrency_key=body["concurrency_key"],
            source_type="key",
            source_id=str(caller().key_id),
            submitted_by=caller().submitter,
        )
        with relocated({"/params": "/input"}):
            run, _ = runs.submit(session, tenant(), new, window=settings().window)
        return run_views(session, [runs.get(session, tenant(), run.id)])[0]


def _register(session: Session, slug: str, body: dict[str, Any]) -> tuple[Workflow, bool]:
    """Register a version of the workflow of this name; the second value is if it is the first."""
    spec = {**body["config"], "name": slug}
    if body["description"] is not None:
        spec["description"] = body["description"]
    with relocated({"": "/config"}):
        workflow, version, created = workflows.register(session, tenant(), spec)
    return workflow, created and version.number == 1


def _shown(session: Session, workflow: Workflow, body: dict[str, Any]) -> AutomationView:
    """The automation, once what a workflow has no place for is kept beside it."""
    beside = {name: value for name, value in body.items() if name != "config"}
    workflows.annotate(session, workflow, **{mapping.ANNOTATION: beside})
    return automation_views(session, [workflow])[0]


def _conflict(workflow: Workflow, name: str) -> Conflict:
    other = mapping.name_of(workflow)
    if other != name:
        return Conflict(f"Automation {other!r} has too similar a name already; choose another")
    address = f"{AUTOMATIONS}/{workflow.id}"
    return Conflict(f"Automation {name!r} exists already; PUT {address} makes its next version")


def _slug(name: str) -> str:
    """A valid name of a workflow."""
    if _NAME.fullmatch(name):
        return name
    plain = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    if name.isascii() and 0 < len(plain) <= _MAX_NAME:
        return plain
    # Other names may have the same slug: a digest keeps them apart.
    digest = hashlib.sha256(name.encode()).hexdigest()[:8]
    return f"{plain[: _MAX_NAME - 1 - len(digest)] or 'automation'}-{digest}"
