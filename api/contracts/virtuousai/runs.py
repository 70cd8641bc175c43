"""The addresses of runs and events."""

import re
from collections.abc import Callable, Sequence
from typing import Any
from uuid import UUID

from flask import Response

from api.contracts.virtuousai import error_messages, event_mapping, mapping
from api.contracts.virtuousai.requests import EventsAsked, RetryAsked, RunsAsked
from api.contracts.virtuousai.responses import (
    EventList,
    Refused,
    Run,
    RunList,
    Steps,
    Unprocessable,
)
from api.toolkit import sse
from api.toolkit.context import caller, services, settings, tenant, transaction
from api.toolkit.surface import LenientBlueprint
from orchestrator import runs
from orchestrator.errors import Conflict, Invalid, Mistake
from orchestrator.models import Role, Step
from orchestrator.runs import RetryMode, RetryRequest
from orchestrator.states import FINAL_RUNS, RunState

blueprint = LenientBlueprint(
    "virtuousai", __name__, description="Automation runs, automations and events"
)

RUNS = "/api/v1/automation-runs"
EVENTS = "/api/v1/events"
MOST_COUNTED = 10_000  # events
MOST_TOLD = 20  # keys of steps
_ONE = f"{RUNS}/<run_id>"
_ID = re.compile(r"[0-9a-f]{8}(-?)[0-9a-f]{4}(\1[0-9a-f]{4}){2}\1[0-9a-f]{12}", re.IGNORECASE)

View = Callable[..., Any]


def refuses(*statuses: int) -> Callable[[View], View]:
    """Document how an address says no."""

    def documented(view: View) -> View:
        for status in (401, 422, *statuses):
            schema = Unprocessable if status == 422 else Refused
            view = blueprint.alt_response(status, schema=schema)(view)
        return view

    return documented


def identity(text: str, name: str) -> UUID:
    """The id in a path. Raises Invalid for what is none, so that it is not looked for."""
    if _ID.fullmatch(text) is None:
        raise Invalid("this is no id", Mistake(f"/path/{name}", error_messages.UUID))
    return UUID(text)


@blueprint.route(RUNS)
@blueprint.arguments(RunsAsked, location="query")
@blueprint.response(200, RunList)
@refuses()
def page(query: dict[str, Any]) -> dict[str, Any]:
    """List automation runs

    The newest first. `pending` are those that have not begun, `running` also those that are being
    cancelled, `failed` also those that took too long.
    """
    which = runs.RunFilter(state=mapping.states(query.get("status")))
    limit, offset = query["limit"], query["offset"]
    with transaction() as session:
        newest = runs.RunSort()
        found = runs.page(
            session, tenant(), which, newest, limit, offset=offset, only=mapping.LISTED
        )
        total = runs.count(session, tenant(), which)
        return {"items": mapping.of_runs(session, found), "total": total}


@blueprint.route(_ONE)
@blueprint.response(200, Run)
@refuses(404)
def show(run_id: str) -> dict[str, Any]:
    """Get an automation run"""
    with transaction() as session:
        run = runs.get(session, tenant(), identity(run_id, "run_id"))
        return mapping.of_runs(session, [run])[0]


@blueprint.route(f"{_ONE}/steps")
@blueprint.response(200, Steps)
@refuses(404)
def steps(run_id: str) -> dict[str, Any]:
    """Get the steps of an automation run

    The counters leave out steps that were skipped or cancelled.
    """
    with transaction() as session:
        run = runs.get_with_steps(session, tenant(), identity(run_id, "run_id"))
    return mapping.of_steps(run, run.steps)


@blueprint.route(f"{_ONE}/cancel", methods=["POST"])
@blueprint.response(200, Run)
@refuses(403, 404, 409)
def cancel(run_id: str) -> dict[str, Any]:
    """Cancel an automation run

    What waits is cancelled in the answer. What runs is told to stop, and is `running` until its
    steps have let go. Cancelling it once more changes nothing.
    """
    caller().must_be(Role.OPERATOR)
    which = identity(run_id, "run_id")
    with transaction() as session:
        state = RunState(runs.lock(session, tenant(), which).state)
        if state in FINAL_RUNS:
            raise Conflict(f"Run is already in a terminal state: {mapping.STATES[state]}")
        if state != RunState.CANCELLING:
            runs.cancel(session, tenant(), which, grace=settings().cancel_grace)
        return mapping.of_runs(session, [runs.get(session, tenant(), which)])[0]


@blueprint.route(f"{_ONE}/retry", methods=["POST"])
@blueprint.arguments(RetryAsked, required=False)
@blueprint.response(200, Run)
@refuses(403, 404, 409)
def retry(body: dict[str, Any], run_id: str) -> dict[str, Any]:
    """Run an automation run again, in place

    The run keeps its id and its version. `from_failed` runs again what did not complete,
    `from_step` the step `stepKey` and all that depends on it, `full` everything.
    """
    caller().must_be(Role.OPERATOR)
    which, mode = identity(run_id, "run_id"), RetryMode(body["mode"])
    key = body["step_key"] if mode == RetryMode.FROM_STEP else None
    rerun = RetryRequest(mode=mode, step=key, submitted_by=caller().submitter)
    with transaction() as session:
        state = RunState(runs.lock(session, tenant(), which).state)
        if state not in FINAL_RUNS:
            raise Conflict(f"Run is not in a terminal state yet: {mapping.STATES[state]}")
        if key is not None:
            _check_step(runs.steps(session, runs.get(session, tenant(), which)), key)
        runs.retry(session, tenant(), which, rerun, window=settings().window)
        # Read before a worker takes it up: the answer shows what was asked for.
        return mapping.of_runs(session, [runs.get(session, tenant(), which)])[0]


def _check_step(steps: Sequence[Step], key: str) -> None:
    """Raises Invalid, with the keys that are right, unless a step has this one."""
    keys = [step.key for step in steps]
    if key not in keys:
        known = ", ".join(keys[:MOST_TOLD]) + (" …" if len(keys) > MOST_TOLD else "")
        told = f"The run has no such step; there are {known}"
        raise Invalid(told, Mistake("/stepKey", told))


@blueprint.route(f"{_ONE}/events")
@blueprint.response(200, content_type="text/event-stream", description="Unnamed events")
@blueprint.alt_response(204, description="The run has ended and its last event was seen")
@refuses(404)
def follow(run_id: str) -> Response:
    """Stream what happens to an automation run

    Replays what came after `Last-Event-ID`, or everything, goes on live, and closes when the run
    has ended. Ids go up and have gaps.
    """
    with transaction() as session:
        run = runs.get(session, tenant(), identity(run_id, "run_id"))
    return sse.stream_run(services(), caller(), run, event_mapping.render)


@blueprint.route(EVENTS)
@blueprint.arguments(EventsAsked, location="query")
@blueprint.response(200, EventList)
@refuses()
def history(query: dict[str, Any]) -> dict[str, Any]:
    """List what happened to the runs of the tenant

    The newest first. `total` is exact up to 10,000.
    """
    limit, offset = query["limit"], query["offset"]
    known = query.get("resource_type") in (None, event_mapping.RESOURCE)
    which = runs.EventFilter(
        types=event_mapping.types(query.get("event_type")) if known else (),
        run_id=query.get("resource_id"),
        since=query.get("since"),
        until=query.get("until"),
    )
    with transaction() as session:
        found = runs.newest_events(session, tenant(), which, limit=limit + 1, offset=offset)
        total = runs.count_events(session, tenant(), which, most=MOST_COUNTED)
    shown = [event_mapping.listed(event) for event in found[:limit]]
    return {
        "events": shown,
        "has_next": len(found) > limit,
        "limit": limit,
        "offset": offset,
        "total": total,
    }
