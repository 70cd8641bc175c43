"""`/api/v1/schedules/…/trigger`: run a schedule now, with a key or with its token."""

from types import SimpleNamespace
from typing import Any
from uuid import UUID

from flask import request, url_for
from marshmallow import EXCLUDE

from api import bodies, repeats, whole
from api.asked import Keyed
from api.context import caller, parts, settings, tenant
from api.schedules import BY_TOKEN, blueprint
from api.schemas import RunShown
from orchestrator import schedules, triggers
from orchestrator.definitions import Role
from orchestrator.firing import Limits
from orchestrator.models import Trigger
from orchestrator.triggers import Payload, Pull

_PAYLOAD = {
    "content": {
        "application/json": {
            "schema": {
                "type": "object",
                "properties": {"variables": {"type": "object"}},
                "additionalProperties": True,
            }
        }
    }
}


@blueprint.route("/<uuid:schedule_id>/trigger", methods=["POST"])
@blueprint.doc(requestBody=_PAYLOAD)
@blueprint.arguments(Keyed, location="headers", unknown=EXCLUDE)
@blueprint.response(201, RunShown)
def trigger(
    headers: dict[str, Any], schedule_id: UUID
) -> tuple[SimpleNamespace, int, dict[str, str]]:
    """Run a schedule now, whatever its type and whether it is active or not

    `variables` go over the schedule's parameters; whatever else the body has is kept with the run
    as `event_variables`. With the header `Idempotency-Key` the same request gives the same run.
    """
    caller().must_be(Role.OPERATOR)
    asked = Pull(submitted_by=caller().submitter, payload=_payload(), **headers)
    return _pull(tenant(), schedule_id, asked)


@blueprint.route("/<uuid:schedule_id>/trigger/<token>", methods=["POST"])
@blueprint.doc(requestBody=_PAYLOAD, security=[])
@blueprint.arguments(Keyed, location="headers", unknown=EXCLUDE)
@blueprint.response(201, RunShown)
def trigger_by_token(
    headers: dict[str, Any], schedule_id: UUID, token: str
) -> tuple[SimpleNamespace, int, dict[str, str]]:
    """Run an active schedule of type api

    The token is the only credential. The body is that of a trigger with a key.
    """
    with parts().doors.transaction() as session:
        schedule = schedules.of_token(session, parts().secret_key, schedule_id, token)
    bodies.check_json()
    asked = Pull(trigger=Trigger.API, submitted_by="trigger", payload=_payload(), **headers)
    return _pull(schedule.tenant_id, schedule_id, asked)


def has_token() -> bool:
    """Whether the request brings a credential of its own, the token of a schedule."""
    return request.endpoint == BY_TOKEN


def _payload() -> Payload:
    return triggers.read_payload(request.get_json() if request.get_data(cache=True) else {})


def _pull(
    tenant_id: UUID, schedule_id: UUID, asked: Pull
) -> tuple[SimpleNamespace, int, dict[str, str]]:
    limits = Limits(settings().window, settings().cancel_grace)
    with parts().database.transaction(tenant_id) as session:
        run, made = triggers.pull(session, tenant_id, schedule_id, asked, limits)

    def shown() -> SimpleNamespace:
        with parts().database.transaction(tenant_id) as session:
            return whole.run(session, tenant_id, run.id)

    told = {"Location": url_for("runs.show", run_id=run.id)}
    return repeats.read(shown), 201, told if made else told | {"Idempotent-Replayed": "true"}
