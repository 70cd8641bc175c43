"""`/api/v1/runs`: submit, read, change, cancel and retry runs."""

import time
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from types import SimpleNamespace
from typing import Any
from uuid import UUID

from flask import Response
from marshmallow import EXCLUDE, RAISE, fields, validate

from api.capacity import gate
from api.toolkit import paging, sse, transient_retry
from api.toolkit.blueprints import REPLAYED, Blueprint, Created, created
from api.toolkit.context import (
    caller,
    must_lend,
    services,
    settings,
    tenant,
    transaction,
    worker_alias,
)
from api.toolkit.fields import BoundedList, Empty, IdempotencyHeaders, PageQuery, StrictSchema
from api.toolkit.wire import WireSchema
from api.v1 import requests, responses
from api.v1.events import render_run_event
from orchestrator import runs
from orchestrator.errors import Invalid, Mistake
from orchestrator.runs import Explanation, RetryMode, RetryRequest, batch, cancellation, listing
from orchestrator.work_limits import take_step

blueprint = Blueprint("runs", __name__, url_prefix="/runs", description="Runs")

_MIN_PAUSE, _MAX_PAUSE = 0.01, 0.5  # seconds between two polls of a run that a request waits for


@blueprint.route("", methods=["POST"])
@blueprint.arguments(requests.WaitQuery, location="query", unknown=RAISE)
@blueprint.arguments(IdempotencyHeaders, location="headers", unknown=EXCLUDE)
@blueprint.arguments(requests.RunRequest)
@blueprint.response(201, responses.RunSchema)
def submit(query: dict[str, Any], headers: dict[str, Any], body: dict[str, Any]) -> Created:
    """Submit a run

    The answer has the run and, as Location, its address. With the header `Idempotency-Key` the
    same request gives the same run however often it is sent. `wait` holds the answer until the
    run has ended, or so many seconds.
    """
    (new,) = _new_runs([body])
    with transaction() as session:
        window = settings().window
        view, is_new = runs.submit_and_view(session, tenant(), new, window=window, **headers)
    run_id = view.run["id"]
    answer = _wait(run_id, query["wait"]) if query["wait"] else responses.run_view(view)
    return created(answer, "runs.show", replayed=not is_new, run_id=run_id)


def _new_runs(bodies: Iterable[dict[str, Any]]) -> Iterator[runs.NewRun]:
    who = caller()
    source_id, submitter = str(who.key_id), who.submitter
    for body in bodies:
        take_step()
        values = {name: value for name, value in body.items() if value is not None}
        if "run_as" in values:
            must_lend(values["run_as"], "runs")
        values |= {"source_type": "key", "source_id": source_id, "submitted_by": submitter}
        yield runs.NewRun(**values)


@blueprint.route("")
@blueprint.arguments(requests.RunListQuery, location="query", unknown=RAISE)
@blueprint.response(200, paging.page_of(responses.RunSummarySchema))
def page(query: dict[str, Any]) -> dict[str, Any]:
    """List runs

    Filters may be repeated. For the next page send `next_cursor` as `cursor`, with the same
    filters.
    """
    cursor, limit, sort = query.pop("cursor", None), query.pop("limit"), query.pop("sort")
    by_priority = sort.endswith("priority")
    after = paging.decode(cursor, *((int, UUID) if by_priority else (UUID,)))
    key = runs.SortOrder.PRIORITY if by_priority else runs.SortOrder.AGE
    order = runs.RunSort(key, sort.startswith("-"), after)
    with transaction() as session:
        rows = runs.page(session, tenant(), runs.RunFilter(**query), order, limit + 1)
    return paging.page(rows, limit, order.position)


@blueprint.route("/<uuid:run_id>")
@blueprint.arguments(requests.WaitQuery, location="query", unknown=RAISE)
@blueprint.response(200, responses.RunSchema)
def show(query: dict[str, Any], run_id: UUID) -> SimpleNamespace:
    """Get a run with its steps"""
    return _wait(run_id, query["wait"])


@blueprint.route("/<uuid:run_id>", methods=["PATCH"])
@blueprint.arguments(requests.RunChangeRequest)
@blueprint.response(200, responses.RunSchema)
def change(body: dict[str, Any], run_id: UUID) -> SimpleNamespace:
    """Change the priority or the tags of a run"""
    with transaction() as session:
        runs.change(session, tenant(), run_id, **body)
    return responses.current_run(tenant(), run_id)


@blueprint.route("/<uuid:run_id>/steps")
@blueprint.response(200, responses.StepSchema(many=True))
def steps(run_id: UUID) -> list[SimpleNamespace]:
    """List the steps of a run"""
    with transaction() as session:
        run = runs.get(session, tenant(), run_id)
        return responses.step_views(session, run, runs.steps(session, run))


@blueprint.route("/<uuid:run_id>/steps/<key>")
@blueprint.response(200, responses.StepSchema)
def step(run_id: UUID, key: str) -> SimpleNamespace:
    """Get one step of a run"""
    with transaction() as session:
        run = runs.get(session, tenant(), run_id)
        return responses.step_views(session, run, [runs.step(session, run, key)])[0]


@blueprint.route("/<uuid:run_id>/steps/<key>/attempts")
@blueprint.response(200, responses.AttemptSchema(many=True))
def attempts(run_id: UUID, key: str) -> list[Any]:
    """List the attempts of a step"""
    with transaction() as session:
        step = runs.step(session, runs.get(session, tenant(), run_id), key)
        return list(runs.attempts(session, step))


@blueprint.route("/<uuid:run_id>/events")
@blueprint.arguments(PageQuery, location="query", unknown=RAISE)
@blueprint.response(200, paging.page_of(responses.EventSchema))
@blueprint.streamed()
def history(query: dict[str, Any], run_id: UUID) -> dict[str, Any] | Response:
    """List the events of a run, oldest first, or stream them

    With `Accept: text/event-stream` the answer has the events after `Last-Event-ID`, continues
    with new ones, and closes when the run has ended.
    """
    if sse.wants_events():
        with transaction() as session:
            run = runs.get(session, tenant(), run_id)
        return sse.stream_run(services(), caller(), run, render_run_event)
    (after,) = paging.decode(query.get("cursor"), int) or (0,)
    limit = query["limit"]
    with transaction() as session:
        runs.get(session, tenant(), run_id)
        rows = runs.events_of_run(session, run_id, after=after, limit=limit + 1)
    return paging.page(rows, limit, lambda event: (event.seq,))


@blueprint.route("/<uuid:run_id>/explain")
@blueprint.response(200, responses.ExplanationSchema)
def explain(run_id: UUID) -> Explanation:
    """Explain why a run does not proceed

    For the run and each of its steps: a code, a sentence, and the objects concerned.
    """
    with transaction(snapshot=True) as session:
        window, broker_answers = settings().window, services().broker.ping
        return runs.explain(
            session,
            tenant(),
            run_id,
            window=window,
            alias=worker_alias(),
            broker_answers=broker_answers,
        )


@blueprint.route("/<uuid:run_id>/start", methods=["POST"])
@blueprint.arguments(Empty, required=False)
@blueprint.response(200, responses.RunSchema)
def start(body: dict[str, Any], run_id: UUID) -> SimpleNamespace:
    """Start a run that was submitted with `start: false`"""
    with transaction() as session:
        runs.start_held_run(session, tenant(), run_id, window=settings().window)
    return responses.current_run(tenant(), run_id)


@blueprint.route("/<uuid:run_id>/cancel", methods=["POST"])
@blueprint.arguments(requests.CancelRequest, required=False)
@blueprint.response(200, responses.RunSchema)
def cancel(body: dict[str, Any], run_id: UUID) -> SimpleNamespace:
    """Cancel a run

    Waiting steps are cancelled at once. Running steps are asked to stop and killed after the
    grace; until then the run is `cancelling`.
    """
    with transaction() as session:
        runs.cancel(session, tenant(), run_id, **requests.stop_options(body))
    return responses.current_run(tenant(), run_id)


@blueprint.route("/<uuid:run_id>/retry", methods=["POST"])
@blueprint.arguments(IdempotencyHeaders, location="headers", unknown=EXCLUDE)
@blueprint.arguments(requests.RetryBody, required=False)
@blueprint.response(200, responses.RunSchema)
def retry(headers: dict[str, Any], body: dict[str, Any], run_id: UUID) -> SimpleNamespace:
    """Run again what failed, everything, or from one step on

    `as: same` reopens the run and keeps its attempts, `as: new` makes a run that names this one
    in `retry_of`. Either way the results of steps that need not run again are kept. With the
    header `Idempotency-Key` the same request is done once, however often it is sent.
    """
    if (body["mode"] == RetryMode.FROM_STEP) != ("step" in body):
        mistake = Mistake("/step", "give `step` with mode from_step, and only then")
        raise Invalid("the mode and the step do not go together", mistake)
    return _retry(run_id, body, headers)


@blueprint.route("/<uuid:run_id>/steps/<key>/restart", methods=["POST"])
@blueprint.arguments(IdempotencyHeaders, location="headers", unknown=EXCLUDE)
@blueprint.arguments(requests.RestartBody, required=False)
@blueprint.response(200, responses.RunSchema)
def restart(
    headers: dict[str, Any], body: dict[str, Any], run_id: UUID, key: str
) -> SimpleNamespace:
    """Run one step and its dependents again, in the same run

    With the header `Idempotency-Key` the same request is done once, however often it is sent.
    """
    return _retry(run_id, {**body, "mode": RetryMode.FROM_STEP, "step": key}, headers)


def _retry(run_id: UUID, body: dict[str, Any], headers: dict[str, Any]) -> SimpleNamespace:
    retry = RetryRequest(**body, submitted_by=caller().submitter)
    with transaction() as session:
        if body.get("params") is not None:
            must_lend(runs.get(session, tenant(), run_id).run_as, "runs")
        run = runs.retry(session, tenant(), run_id, retry, window=settings().window, **headers)
    return responses.current_run(tenant(), run.id)


def _wait(run_id: UUID, seconds: float) -> SimpleNamespace:
    """The run, once it has ended or after so many seconds."""

    if seconds:
        with gate.current().waiting():
            _await_end(run_id, seconds)
    return responses.current_run(tenant(), run_id)


def _await_end(run_id: UUID, seconds: float) -> None:
    ticket = gate.current()

    def has_ended() -> bool:
        # In autocommit, a poll is one round trip.
        with ticket.turn(), services().unscoped_database.transaction() as session:
            return runs.has_ended(session, tenant(), run_id)

    start = time.monotonic()
    end = start + seconds
    while (now := time.monotonic()) < end and not transient_retry.run_read(has_ended):
        # The end is noticed late by at most a twentieth of the time that has passed.
        pause = min(max(_MIN_PAUSE, (now - start) / 20), _MAX_PAUSE)
        time.sleep(min(max(pause, ticket.poll_interval()), end - now))


_BULK_SECONDS = 20.0  # after which a bulk cancel responds with what is left


class BatchRequest(StrictSchema):
    """Runs, each as it would be submitted alone."""

    runs = BoundedList(
        fields.Nested(requests.RunRequest),
        required=True,
        validate=validate.Length(1, batch.MAX_BATCH_RUNS),
    )


class BatchRunSchema(WireSchema):
    """An accepted run of a batch."""

    id = fields.UUID()
    number = fields.Integer()


class BatchResponse(WireSchema):
    """The accepted runs, in their order."""

    items = fields.List(fields.Nested(BatchRunSchema))


class BulkCancelRequest(requests.CancelRequest):
    """Which runs to cancel, and how."""

    filter = fields.Nested(requests.RunFilterQuery, required=True, validate=validate.Length(1))
    dry_run = fields.Boolean(load_default=False)


class BulkCancelResponse(WireSchema):
    """How many runs were cancelled, and how many are left."""

    cancelled = fields.Integer()
    left = fields.Integer(metadata={"description": "repeat the request until this is 0"})


@blueprint.route("/batch", methods=["POST"])
@blueprint.arguments(IdempotencyHeaders, location="headers", unknown=EXCLUDE)
@blueprint.arguments(BatchRequest)
@blueprint.response(201, BatchResponse)
def submit_batch(headers: dict[str, Any], body: dict[str, Any]) -> Created:
    """Submit many runs

    All of them are accepted, or none, with the errors of each. The scheduler admits them. With the
    header `Idempotency-Key` the same request gives the same runs however often it is sent.
    """
    new_runs = list(_new_runs(body["runs"]))
    with transaction() as session:
        rows, is_new = batch.submit_many(session, tenant(), new_runs, **headers)
    return {"items": rows}, 201, {} if is_new else REPLAYED


@blueprint.route("/bulk/cancel", methods=["POST"])
@blueprint.arguments(BulkCancelRequest)
@blueprint.response(200, BulkCancelResponse)
def cancel_many(body: dict[str, Any]) -> dict[str, int]:
    """Cancel all runs that match a filter

    Those that have ended stay as they are. With `dry_run` the answer only says how many there are.
    A request that takes too long stops in between; it may be repeated.
    """
    transient_retry.allow_retry()
    run_filter = cancellation.cancellable_filter(runs.RunFilter(**body["filter"]))
    options = requests.stop_options(body)

    def cancel_next(after: UUID | None) -> Sequence[UUID]:
        with transaction() as session:
            return cancellation.cancel_many(session, tenant(), run_filter, after=after, **options)

    end, count, last = time.monotonic() + _BULK_SECONDS, 0, None
    while not body["dry_run"] and time.monotonic() < end:
        run_ids = transient_retry.run_read(partial(cancel_next, last))
        if not run_ids:
            break
        count, last = count + len(run_ids), run_ids[-1]
    with transaction() as session:
        return {"cancelled": count, "left": listing.count(session, tenant(), run_filter)}
