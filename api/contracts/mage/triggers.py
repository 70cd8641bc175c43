"""The addresses of triggers, where a token starts a run and no key is needed."""

from typing import Any

from flask import request

from api.capacity import gate
from api.capacity.shares import Party
from api.contracts.mage import mapping, responses, runs
from api.contracts.mage.surface import blueprint
from api.toolkit.context import services, trigger_transaction
from api.toolkit.request_guards import read_json
from api.toolkit.wire import reworded
from orchestrator import schedules
from orchestrator.errors import Invalid, Mistake, NotFound
from orchestrator.models import Trigger
from orchestrator.schedules import TriggerPayload, TriggerRequest

_TRIGGER = "/api/pipeline_schedules/<pipeline_schedule_id>"
_RUN = {"type": "object", "properties": {"variables": {"type": "object"}}}
_SCHEMA = {"type": "object", "properties": {"pipeline_run": _RUN}, "additionalProperties": True}
_BODY = {"content": {"application/json": {"schema": _SCHEMA}}}


@blueprint.route(f"{_TRIGGER}/pipeline_runs/<token>", methods=["POST"])
@blueprint.doc(requestBody=_BODY, security=[])
@blueprint.response(200, responses.Triggered)
def trigger_by_path(pipeline_schedule_id: str, token: str) -> dict[str, Any]:
    """Start a pipeline run with the token of a trigger

    `pipeline_run.variables` become the run's variables; every other member of the body goes to
    `event_variables`, and becomes a variable where neither the body, the trigger nor the pipeline
    has one of its name. The body is read as JSON whatever type it is sent as. An inactive trigger
    becomes active. Refusals have HTTP 200, too, and an `error`.
    """
    return _trigger(pipeline_schedule_id, token)


@blueprint.route(f"{_TRIGGER}/api_trigger", methods=["POST"])
@blueprint.doc(requestBody=_BODY, security=[])
@blueprint.response(200, responses.Triggered)
def trigger_by_bearer(pipeline_schedule_id: str) -> dict[str, Any]:
    """Start a pipeline run with the token of a trigger as Bearer

    The body is that of the address that has the token in it.
    """
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    return _trigger(pipeline_schedule_id, token.strip() if scheme.lower() == "bearer" else "")


def _trigger(pk: str, token: str) -> dict[str, Any]:
    invalid = f"Invalid token for pipeline schedule ID {pk}."
    with services().unscoped_database.transaction() as session, reworded(invalid, NotFound):
        schedule = schedules.schedule_of_token(
            session, services().secret_key, mapping.parse_id(pk), token
        )
    gate.identify(Party(schedule.tenant_id, schedule.id))
    pull = TriggerRequest(
        trigger=Trigger.API,
        submitted_by="trigger",
        payload=_payload(),
        activate=True,
        keeps_skipped=True,
    )
    with trigger_transaction(schedule) as session:
        run = runs.trigger(session, schedule, pull, "")
    return {"pipeline_run": runs.run_view(schedule.tenant_id, run.id)}


def _payload() -> TriggerPayload:
    """The payload in the body, without an API key. Raises Invalid for another form."""
    body = read_json(any_type=True)
    if body is None:
        return TriggerPayload(variables={}, event_variables={})
    run = _object(body, "/").get("pipeline_run")
    variables = None if run is None else _object(run, "/pipeline_run").get("variables")
    if variables is not None:
        _object(variables, "/pipeline_run/variables")
    others = {
        name: value for name, value in body.items() if name not in ("pipeline_run", "api_key")
    }
    return TriggerPayload(variables=variables or {}, event_variables=others, merges_events=True)


def _object(value: Any, pointer: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise Invalid("the payload cannot be used", Mistake(pointer, "must be an object"))
    return value
