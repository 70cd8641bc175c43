"""`/api/v1/runs`: submit, watch, change, cancel and retry runs."""

import time
from types import SimpleNamespace
from typing import Any
from uuid import UUID

from flask import Response, url_for
from marshmallow import EXCLUDE, RAISE

from api import paging, repeats, stream, whole
from api.asked import (
    CancelAsked,
    Keyed,
    Page,
    RestartAsked,
    RetryAsked,
    RunAsked,
    RunChange,
    RunFilter,
    StartAsked,
    Wait,
    grace_of,
)
from api.blueprints import Blueprint
from api.context import caller, parts, settings, tenant, transaction
from api.explained import ExplainedShown
from api.schemas import AttemptShown, EventPage, RunPage, RunShown, StepShown
from orchestrator import events, explaining, listing, reruns, runs, submission
from orchestrator.causes import Explained
from orchestrator.definitions import Role
from orchestrator.errors import Invalid, Mistake
from orchestrator.reruns import Mode, Rerun

blueprint = Blueprint("runs", __name__, url_prefix="/api/v1/runs", description="Runs")

_FIRST_PAUSE, _LONGEST_PAUSE = 0.01, 0.5  # seconds between two looks at a run that is waited for


@blueprint.route("", methods=["POST"])
@blueprint.arguments(Wait, location="query", unknown=RAISE)
@blueprint.arguments(Keyed, location="headers", unknown=EXCLUDE)
@blueprint.arguments(RunAsked)
@blueprint.response(201, RunShown)
def submit(
    query: dict[str, Any], headers: dict[str, Any], body: dict[str, Any]
) -> tuple[SimpleNamespace, int, dict[str, str]]:
    """Submit a run

    The answer has the run and, as Location, its address. With the header `Idempotency-Key` the
    same request gives the same run however often it is sent. `wait` holds the answer until the
    run has ended, or so many seconds.
    """
    caller().must_be(Role.OPERATOR)
    with transaction() as session:
        run, made = submission.submit(
            session,
            tenant(),
            asked_of(body),
            window=settings().window,
            idempotency_key=headers.get("idempotency_key"),
        )
    told = {"Location": url_for("runs.show", run_id=run.id)}
    if not made:
        told["Idempotent-Replayed"] = "true"
    return _wait(run.id, query["wait"]), 201, told


def asked_of(body: dict[str, Any]) -> submission.NewRun:
    """The run that a body asks for, in the caller's name."""
    given = {name: value for name, value in body.items() if value is not None}
    who = caller()
    return submission.NewRun(
        **given, source_type="key", source_id=str(who.key_id), submitted_by=who.submitter
    )


@blueprint.route("")
@blueprint.arguments(RunFilter, location="query", unknown=RAISE)
@blueprint.response(200, RunPage)
def page(query: dict[str, Any]) -> dict[str, Any]:
    """List runs

    Filters may be repeated. The next page is asked for with the `next_cursor` of the one before
    and the same filters.
    """
    cursor, limit, sort = query.pop("cursor", None), query.pop("limit"), query.pop("sort")
    by = listing.Order.PRIORITY if sort.endswith("priority") else listing.Order.AGE
    after = paging.decode(cursor, *((UUID,) if by == listing.Order.AGE else (int, UUID)))
    order = listing.RunOrder(by, sort.startswith("-"), after)
    which = listing.RunFilter(**query)
    with transaction() as session:
        found = listing.page(session, tenant(), which, order, limit + 1)
    return paging.page(found, limit, order.position)


@blueprint.route("/<uuid:run_id>")
@blueprint.arguments(Wait, location="query", unknown=RAISE)
@blueprint.response(200, RunShown)
def show(query: dict[str, Any], run_id: UUID) -> SimpleNamespace:
    """Get a run with its steps"""
    return _wait(run_id, query["wait"])


@blueprint.route("/<uuid:run_id>", methods=["PATCH"])
@blueprint.arguments(RunChange)
@blueprint.response(200, RunShown)
def change(body: dict[str, Any], run_id: UUID) -> SimpleNamespace:
    """Change the priority or the tags of a run"""
    caller().must_be(Role.OPERATOR)
    with transaction() as session:
        runs.change(session, tenant(), run_id, **body)
    return _shown(run_id)


@blueprint.route("/<uuid:run_id>/steps")
@blueprint.response(200, StepShown(many=True))
def steps(run_id: UUID) -> list[SimpleNamespace]:
    """List the steps of a run"""
    with transaction() as session:
        return whole.steps(session, tenant(), run_id)


@blueprint.route("/<uuid:run_id>/steps/<key>")
@blueprint.response(200, StepShown)
def step(run_id: UUID, key: str) -> SimpleNamespace:
    """Get one step of a run"""
    with transaction() as session:
        return whole.step(session, tenant(), run_id, key)


@blueprint.route("/<uuid:run_id>/steps/<key>/attempts")
@blueprint.response(200, AttemptShown(many=True))
def attempts(run_id: UUID, key: str) -> list[Any]:
    """List every try of a step"""
    with transaction() as session:
        found = runs.step(session, runs.get(session, tenant(), run_id), key)
        return list(runs.attempts(session, found))


@blueprint.route("/<uuid:run_id>/events")
@blueprint.arguments(Page, location="query", unknown=RAISE)
@blueprint.response(200, EventPage)
def history(query: dict[str, Any], run_id: UUID) -> dict[str, Any] | Response:
    """List what happened to a run, oldest first, or stream it as it happens

    With `Accept: text/event-stream` the answer replays what came after `Last-Event-ID`, goes on
    live, and closes when the run has ended.
    """
    if stream.is_wanted():
        with transaction() as session:
            run = runs.get(session, tenant(), run_id)
        return stream.of_run(parts(), caller(), run)
    (after,) = paging.decode(query.get("cursor"), int) or (0,)
    limit = query["limit"]
    with transaction() as session:
        runs.get(session, tenant(), run_id)
        found = events.history(session, run_id, after=after, limit=limit + 1)
    return paging.page(found, limit, lambda last: (last.seq,))


@blueprint.route("/<uuid:run_id>/explain")
@blueprint.response(200, ExplainedShown)
def explain(run_id: UUID) -> Explained:
    """Tell why a run does not go on

    For the run and each of its steps: a code, a sentence, and who or what it is about.
    """
    with parts().database.transaction(tenant(), snapshot=True) as session:
        return explaining.explain(
            session,
            tenant(),
            run_id,
            window=settings().window,
            broker_answers=parts().broker.ping,
        )


@blueprint.route("/<uuid:run_id>/start", methods=["POST"])
@blueprint.arguments(StartAsked, required=False)
@blueprint.response(200, RunShown)
def start(body: dict[str, Any], run_id: UUID) -> SimpleNamespace:
    """Start a run that was submitted with `start: false`"""
    caller().must_be(Role.OPERATOR)
    with transaction() as session:
        submission.start(session, tenant(), run_id, window=settings().window, **body)
    return _shown(run_id)


@blueprint.route("/<uuid:run_id>/cancel", methods=["POST"])
@blueprint.arguments(CancelAsked, required=False)
@blueprint.response(200, RunShown)
def cancel(body: dict[str, Any], run_id: UUID) -> SimpleNamespace:
    """Cancel a run

    What waits is cancelled in the answer. A step that runs is told to stop and killed after its
    grace; until then the run is `cancelling`.
    """
    caller().must_be(Role.OPERATOR)
    with transaction() as session:
        runs.cancel(
            session,
            tenant(),
            run_id,
            grace=grace_of(body),
            reason=body.get("reason"),
        )
    return _shown(run_id)


@blueprint.route("/<uuid:run_id>/retry", methods=["POST"])
@blueprint.arguments(Keyed, location="headers", unknown=EXCLUDE)
@blueprint.arguments(RetryAsked, required=False)
@blueprint.response(200, RunShown)
def retry(headers: dict[str, Any], body: dict[str, Any], run_id: UUID) -> SimpleNamespace:
    """Run again what failed, everything, or from one step on

    `as: same` reopens the run and keeps its attempts, `as: new` makes a run that names this one
    in `retry_of`. Either way the results of steps that need not run again are kept. With the
    header `Idempotency-Key` the same request is done once, however often it is sent.
    """
    if (body["mode"] == Mode.FROM_STEP) != ("step" in body):
        mistake = Mistake("/step", "give `step` with mode from_step, and only then")
        raise Invalid("the mode and the step do not go together", mistake)
    return _retry(run_id, Rerun(**body, submitted_by=caller().submitter), headers)


@blueprint.route("/<uuid:run_id>/steps/<key>/restart", methods=["POST"])
@blueprint.arguments(Keyed, location="headers", unknown=EXCLUDE)
@blueprint.arguments(RestartAsked, required=False)
@blueprint.response(200, RunShown)
def restart(
    headers: dict[str, Any], body: dict[str, Any], run_id: UUID, key: str
) -> SimpleNamespace:
    """Run one step and all that needs it again, in the same run

    With the header `Idempotency-Key` the same request is done once, however often it is sent.
    """
    who = caller().submitter
    return _retry(run_id, Rerun(**body, mode=Mode.FROM_STEP, step=key, submitted_by=who), headers)


def _retry(run_id: UUID, rerun: Rerun, keyed: dict[str, Any]) -> SimpleNamespace:
    caller().must_be(Role.OPERATOR)
    with transaction() as session:
        run = reruns.retry(session, tenant(), run_id, rerun, window=settings().window, **keyed)
    return _shown(run.id)


def _shown(run_id: UUID) -> SimpleNamespace:
    """A run and all that belongs to it, as it is now."""

    def shown() -> SimpleNamespace:
        with parts().database.transaction(tenant(), snapshot=True) as session:
            return whole.run(session, tenant(), run_id)

    return repeats.read(shown)


def _wait(run_id: UUID, seconds: float) -> SimpleNamespace:
    """A run and its steps, once the run has ended or the time is over."""
    if seconds:
        _until_final(run_id, time.monotonic() + seconds)
    return _shown(run_id)


def _until_final(run_id: UUID, end: float) -> None:
    def ended() -> bool:
        with parts().doors.transaction() as session:  # one short question, asked again and again
            return runs.has_ended(session, tenant(), run_id)

    begun = time.monotonic()
    while (now := time.monotonic()) < end and not repeats.read(ended):
        # Late by a twentieth of the time that it took, at most.
        pause = min(max(_FIRST_PAUSE, (now - begun) / 20), _LONGEST_PAUSE)
        time.sleep(min(pause, end - now))
