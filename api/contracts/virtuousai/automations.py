"""The addresses of automations: list, get, make and run them."""

import hashlib
import re
from typing import Any

from api.contracts.virtuousai import mapping
from api.contracts.virtuousai.mapping import AutomationView, RunView, automation_views, run_views
from api.contracts.virtuousai.requests import AutomationBody, AutomationsQuery, TriggerBody
from api.contracts.virtuousai.responses import Automation, AutomationList, Run
from api.contracts.virtuousai.surface import AUTOMATIONS, answers, blueprint, path_id
from api.contracts.virtuousai.vocabulary import ACTIVE
from api.toolkit.context import caller, settings, tenant, transaction
from api.toolkit.wire import relocated
from orchestrator import runs, workflows
from orchestrator.errors import Conflict
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
    with transaction() as session:
        rows = workflows.newest(session, tenant(), **query)
        total = workflows.count(session, tenant())
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
    """Make an automation, or the next version of it

    `config` is a workflow's spec without its name: steps, params and options. The same name with
    another `config` is the automation's next version.
    """
    name, config = body.pop("name"), body.pop("config")
    spec = {**config, "name": _slug(name)}
    if body["description"] is not None:
        spec["description"] = body["description"]
    with transaction() as session:
        with relocated({"": "/config"}):
            workflow, version, created = workflows.register(session, tenant(), spec)
        is_new = created and version.number == 1
        if not is_new and (other := mapping.name_of(workflow)) != name:
            raise Conflict(f"Automation {other!r} has too similar a name already; choose another")
        workflows.annotate(session, workflow, **{mapping.ANNOTATION: {"name": name, **body}})
        return automation_views(session, [workflow])[0]


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
