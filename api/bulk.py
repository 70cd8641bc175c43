"""`/api/v1/runs/batch` and `/api/v1/runs/bulk/…`: many runs in one request."""

import time
from collections.abc import Sequence
from functools import partial
from typing import Any
from uuid import UUID

from marshmallow import EXCLUDE, Schema, fields, validate

from api import repeats
from api.asked import CancelAsked, Keyed, RunAsked, RunChoice, Strict, grace_of
from api.context import caller, tenant, transaction
from api.runs import asked_of, blueprint
from api.schemas import Shown
from orchestrator import batches, bulk, listing
from orchestrator.definitions import Role

_WITHIN = 20.0  # seconds after which an answer says what is left


class BatchAsked(Strict):
    """Runs, each as it would be submitted alone."""

    runs = fields.List(
        fields.Nested(RunAsked), required=True, validate=validate.Length(1, batches.MOST)
    )


class RunMade(Shown):
    """A run that was accepted."""

    id = fields.UUID()
    number = fields.Integer()


class BatchShown(Schema):
    """The runs that were accepted, in their order."""

    items = fields.List(fields.Nested(RunMade))


class BulkCancelAsked(CancelAsked):
    """Which runs to stop, and how."""

    filter = fields.Nested(RunChoice, required=True, validate=validate.Length(1))
    dry_run = fields.Boolean(load_default=False)


class BulkCancelShown(Schema):
    """What was done, and what is left to do."""

    cancelled = fields.Integer()
    left = fields.Integer(metadata={"description": "repeat the request until this is 0"})


@blueprint.route("/batch", methods=["POST"])
@blueprint.arguments(Keyed, location="headers", unknown=EXCLUDE)
@blueprint.arguments(BatchAsked)
@blueprint.response(201, BatchShown)
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
        made, first = batches.submit(session, tenant(), news, **headers)
    return {"items": made}, 201, {} if first else {"Idempotent-Replayed": "true"}


@blueprint.route("/bulk/cancel", methods=["POST"])
@blueprint.arguments(BulkCancelAsked)
@blueprint.response(200, BulkCancelShown)
def cancel_many(body: dict[str, Any]) -> dict[str, int]:
    """Cancel all runs that a filter finds

    Those that have ended stay as they are. With `dry_run` the answer only says how many there are.
    A request that takes too long stops in between; it may be repeated.
    """
    caller().must_be(Role.OPERATOR)
    repeats.allow()
    which = bulk.stoppable(listing.RunFilter(**body["filter"]))
    grace = grace_of(body)

    def some(after: UUID | None) -> Sequence[UUID]:
        given: dict[str, Any] = {"grace": grace, "reason": body.get("reason"), "after": after}
        with transaction() as session:
            return bulk.cancel(session, tenant(), which, **given)

    end, done, last = time.monotonic() + _WITHIN, 0, None
    while not body["dry_run"] and time.monotonic() < end:
        stopped = repeats.read(partial(some, last))
        if not stopped:
            break
        done, last = done + len(stopped), stopped[-1]
    with transaction() as session:
        return {"cancelled": done, "left": listing.count(session, tenant(), which)}
