"""`/api/v1/runs`: submit, watch, change, cancel and retry runs."""

import time
from collections.abc import Sequence
from functools import partial
from types import SimpleNamespace
from typing import Any
from uuid import UUID

from flask import Response, url_for
from marshmallow import EXCLUDE, RAISE, Schema, fields, validate

from api.toolkit import paging, sse, transient_retry
from api.toolkit.blueprints import Blueprint
from api.toolkit.context import caller, services, settings, tenant, transaction
from api.toolkit.fields import ResponseSchema
from api.toolkit.requests import IdempotencyHeaders, PageQuery, StrictSchema
from api.v1 import run_view
from api.v1.events import render_run_event
from api.v1.requests import (
    CancelRequest,
    RestartBody,
    RetryBody,
    RunChangeRequest,
    RunFilterQuery,
    RunListQuery,
    RunRequest,
    StartRequest,
    WaitQuery,
    grace_of,
)
from api.v1.responses import (
    AttemptShown,
    EventPage,
    ExplanationSchema,
    RunPage,
    RunShown,
    StepShown,
)
from orchestrator import runs
from orchestrator.errors import Invalid, Mistake
from orchestrator.models import Role
from orchestrator.runs import Explanation, RetryMode, RetryRequest, batch, cancellation, listing

blueprint = Blueprint("runs", __name__, url_prefix="/api/v1/runs", description="Runs")

_FIRST_PAUSE, _LONGEST_PAUSE = 0.01, 0.5  # seconds between two looks at a run that is waited for


@blueprint.route("", methods=["POST"])
@blueprint.arguments(WaitQuery, location="query", unknown=RAISE)
@blueprint.arguments(IdempotencyHeaders, location="headers", unknown=EXCLUDE)
@blueprint.arguments(RunRequest)
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
        run, made = runs.submit(
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


def asked_of(body: dict[str, Any]) -> runs.NewRun:
    """The run that a body asks for, in the caller's name."""
    given = {name: value for name, value in body.items() if value is not None}
    who = caller()
    return runs.NewRun(
        **given, source_type="key", source_id=str(who.key_id), submitted_by=who.submitter
    )


@blueprint.route("")
@blueprint.arguments(RunListQuery, location="query", unknown=RAISE)
@blueprint.response(200, RunPage)
def page(query: dict[str, Any]) -> dict[str, Any]:
    """List runs

    Filters may be repeated. The next page is asked for with the `next_cursor` of the one before
    and the same filters.
    """
    cursor, limit, sort = query.pop("cursor", None), query.pop("limit"), query.pop("sort")
    by = runs.SortOrder.PRIORITY if sort.endswith("priority") else runs.SortOrder.AGE
    after = paging.decode(cursor, *((UUID,) if by == runs.SortOrder.AGE else (int, UUID)))
    order = runs.RunSort(by, sort.startswith("-"), after)
    which = runs.RunFilter(**query)
    with transaction() as session:
        found = runs.page(session, tenant(), which, order, limit + 1)
    return paging.page(found, limit, order.position)


@blueprint.route("/<uuid:run_id>")
@blueprint.arguments(WaitQuery, location="query", unknown=RAISE)
@blueprint.response(200, RunShown)
def show(query: dict[str, Any], run_id: UUID) -> SimpleNamespace:
    """Get a run with its steps"""
    return _wait(run_id, query["wait"])


@blueprint.route("/<uuid:run_id>", methods=["PATCH"])
@blueprint.arguments(RunChangeRequest)
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
        return run_view.steps(session, tenant(), run_id)


@blueprint.route("/<uuid:run_id>/steps/<key>")
@blueprint.response(200, StepShown)
def step(run_id: UUID, key: str) -> SimpleNamespace:
    """Get one step of a run"""
    with transaction() as session:
        return run_view.step(session, tenant(), run_id, key)


@blueprint.route("/<uuid:run_id>/steps/<key>/attempts")
@blueprint.response(200, AttemptShown(many=True))
def attempts(run_id: UUID, key: str) -> list[Any]:
    """List every try of a step"""
    with transaction() as session:
        found = runs.step(session, runs.get(session, tenant(), run_id), key)
        return list(runs.attempts(session, found))


@blueprint.route("/<uuid:run_id>/events")
@blueprint.arguments(PageQuery, location="query", unknown=RAISE)
@blueprint.response(200, EventPage)
def history(query: dict[str, Any], run_id: UUID) -> dict[str, Any] | Response:
    """List what happened to a run, oldest first, or stream it as it happens

    With `Accept: text/event-stream` the answer replays what came after `Last-Event-ID`, goes on
    live, and closes when the run has ended.
    """
    if sse.wants_events():
        with transaction() as session:
            run = runs.get(session, tenant(), run_id)
        return sse.stream_run(services(), caller(), run, render_run_event)
    (after,) = paging.decode(query.get("cursor"), int) or (0,)
    limit = query["limit"]
    with transaction() as session:
        runs.get(session, tenant(), run_id)
        found = runs.events_of_run(session, run_id, after=after, limit=limit + 1)
    return paging.page(found, limit, lambda last: (last.seq,))


@blueprint.route("/<uuid:run_id>/explain")
@blueprint.response(200, ExplanationSchema)
def explain(run_id: UUID) -> Explanation:
    """Tell why a run does not go on

    For the run and each of its steps: a code, a sentence, and who or what it is about.
    """
    with services().database.transaction(tenant(), snapshot=True) as session:
        return runs.explain(
            session,
            tenant(),
            run_id,
            window=settings().window,
            broker_answers=services().broker.ping,
        )


@blueprint.route("/<uuid:run_id>/start", methods=["POST"])
@blueprint.arguments(StartRequest, required=False)
@blueprint.response(200, RunShown)
def start(body: dict[str, Any], run_id: UUID) -> SimpleNamespace:
    """Start a run that was submitted with `start: false`"""
    caller().must_be(Role.OPERATOR)
    with transaction() as session:
        runs.start_held_run(session, tenant(), run_id, window=settings().window, **body)
    return _shown(run_id)


@blueprint.route("/<uuid:run_id>/cancel", methods=["POST"])
@blueprint.arguments(CancelRequest, required=False)
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
@blueprint.arguments(IdempotencyHeaders, location="headers", unknown=EXCLUDE)
@blueprint.arguments(RetryBody, required=False)
@blueprint.response(200, RunShown)
def retry(headers: dict[str, Any], body: dict[str, Any], run_id: UUID) -> SimpleNamespace:
    """Run again what failed, everything, or from one step on

    `as: same` reopens the run and keeps its attempts, `as: new` makes a run that names this one
    in `retry_of`. Either way the results of steps that need not run again are kept. With the
    header `Idempotency-Key` the same request is done once, however often it is sent.
    """
    if (body["mode"] == RetryMode.FROM_STEP) != ("step" in body):
        mistake = Mistake("/step", "give `step` with mode from_step, and only then")
        raise Invalid("the mode and the step do not go together", mistake)
    return _retry(run_id, RetryRequest(**body, submitted_by=caller().submitter), headers)


@blueprint.route("/<uuid:run_id>/steps/<key>/restart", methods=["POST"])
@blueprint.arguments(IdempotencyHeaders, location="headers", unknown=EXCLUDE)
@blueprint.arguments(RestartBody, required=False)
@blueprint.response(200, RunShown)
def restart(
    headers: dict[str, Any], body: dict[str, Any], run_id: UUID, key: str
) -> SimpleNamespace:
    """Run one step and all that needs it again, in the same run

    With the header `Idempotency-Key` the same request is done once, however often it is sent.
    """
    who = caller().submitter
    return _retry(
        run_id, RetryRequest(**body, mode=RetryMode.FROM_STEP, step=key, submitted_by=who), headers
    )


def _retry(run_id: UUID, rerun: RetryRequest, keyed: dict[str, Any]) -> SimpleNamespace:
    caller().must_be(Role.OPERATOR)
    with transaction() as session:
        run = runs.retry(session, tenant(), run_id, rerun, window=settings().window, **keyed)
    return _shown(run.id)


def _shown(run_id: UUID) -> SimpleNamespace:
    """A run and all that belongs to it, as it is now."""

    def shown() -> SimpleNamespace:
        with services().database.transaction(tenant(), snapshot=True) as session:
            return run_view.run(session, tenant(), run_id)

    return transient_retry.run_read(shown)


def _wait(run_id: UUID, seconds: float) -> SimpleNamespace:
    """A run and its steps, once the run has ended or the time is over."""
    if seconds:
        _until_final(run_id, time.monotonic() + seconds)
    return _shown(run_id)


def _until_final(run_id: UUID, end: float) -> None:
    def ended() -> bool:
        with services().doors.transaction() as session:  # one short question, asked again and again
            return runs.has_ended(session, tenant(), run_id)

    begun = time.monotonic()
    while (now := time.monotonic()) < end and not transient_retry.run_read(ended):
        # Late by a twentieth of the time that it took, at most.
        pause = min(max(_FIRST_PAUSE, (now - begun) / 20), _LONGEST_PAUSE)
        time.sleep(min(pause, end - now))


_WITHIN = 20.0  # seconds after which an answer says what is left


class BatchRequest(StrictSchema):
    """Runs, each as it would be submitted alone."""

    runs = fields.List(
        fields.Nested(RunRequest), required=True, validate=validate.Length(1, batch.MAX_BATCH_RUNS)
    )


class BatchRun(ResponseSchema):
    """A run that was accepted."""

    id = fields.UUID()
    number = fields.Integer()


class BatchResponse(Schema):
    """The runs that were accepted, in their order."""

    items = fields.List(fields.Nested(BatchRun))


class BulkCancelRequest(CancelRequest):
    """Which runs to stop, and how."""

    filter = fields.Nested(RunFilterQuery, required=True, validate=validate.Length(1))
    dry_run = fields.Boolean(load_default=False)


class BulkCancelResponse(Schema):
    """What was done, and what is left to do."""

    cancelled = fields.Integer()
    left = fields.Integer(metadata={"description": "repeat the request until this is 0"})


@blueprint.route("/batch", methods=["POST"])
@blueprint.arguments(IdempotencyHeaders, location="headers", unknown=EXCLUDE)
@blueprint.arguments(BatchRequest)
@blueprint.response(201, BatchResponse)
def submit_batch(
    headers: dict[str, Any], body: dict[str, Any]
) -> tuple[dict[str, Any], int, dict[str, str]]:
    """Submit many runs

    All of them are accepted, or none: then the answer says what is wrong with which. The scheduler
    admits them. With the header `Idempotency-Key` the same request gives the same runs however
    often it is sent.
    """
    caller().must_be(Role.OPERATOR)
    news = [asked_of(each) for each in body["runs"]]
    with transaction() as session:
        made, first = batch.submit_many(session, tenant(), news, **headers)
    return {"items": made}, 201, {} if first else {"Idempotent-Replayed": "true"}


@blueprint.route("/bulk/cancel", methods=["POST"])
@blueprint.arguments(BulkCancelRequest)
@blueprint.response(200, BulkCancelResponse)
def cancel_many(body: dict[str, Any]) -> dict[str, int]:
    """Cancel all runs that a filter finds

    Those that have ended stay as they are. With `dry_run` the answer only says how many there are.
    A request that takes too long stops in between; it may be repeated.
    """
    caller().must_be(Role.OPERATOR)
    transient_retry.allow_retry()
    which = cancellation.count_cancellable(listing.RunFilter(**body["filter"]))
    grace = grace_of(body)

    def some(after: UUID | None) -> Sequence[UUID]:
        given: dict[str, Any] = {"grace": grace, "reason": body.get("reason"), "after": after}
        with transaction() as session:
            return cancellation.cancel_many(session, tenant(), which, **given)

    end, done, last = time.monotonic() + _WITHIN, 0, None
    while not body["dry_run"] and time.monotonic() < end:
        stopped = transient_retry.run_read(partial(some, last))
        if not stopped:
            break
        done, last = done + len(stopped), stopped[-1]
    with transaction() as session:
        return {"cancelled": done, "left": listing.count(session, tenant(), which)}
