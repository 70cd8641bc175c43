"""`/api/pipeline_runs`, the runs of a trigger, and `/api/block_runs`."""

from contextlib import nullcontext, suppress
from dataclasses import replace
from typing import Any
from uuid import UUID

from sqlalchemy.orm import Session

from api.contracts.mage import mapping, requests, responses
from api.contracts.mage.surface import blueprint
from api.toolkit import paging
from api.toolkit.context import caller, services, settings, tenant, transaction
from orchestrator import runs, schedules
from orchestrator.errors import Invalid, InvalidTransition, Mistake, NotFound
from orchestrator.models import Run, Schedule
from orchestrator.outputs.storage import store_of
from orchestrator.runs import RetryMode, RetryRequest
from orchestrator.schedules import RunOptions, TriggerPayload, TriggerRequest
from orchestrator.search.queries import with_time_limit
from orchestrator.states import FINAL_RUNS

Shape = dict[str, Any]


@blueprint.route("/api/pipeline_runs")
@blueprint.arguments(requests.RunQuery, location="query")
@blueprint.response(200, responses.Runs)
def list_runs(query: dict[str, Any]) -> Shape:
    """List pipeline runs

    The latest execution date comes first, unless `order_by[]` says else.
    """
    return _page(query, None)


@blueprint.route("/api/pipeline_schedules/<pk>/pipeline_runs")
@blueprint.arguments(requests.RunQuery, location="query")
@blueprint.response(200, responses.Runs)
def list_schedule_runs(query: dict[str, Any], pk: str) -> Shape:
    """List the pipeline runs of a trigger

    The latest execution date comes first, unless `order_by[]` says else.
    """
    with transaction() as session:
        schedule = schedules.get_schedule(session, tenant(), mapping.parse_id(pk))
    return _page(query, schedule.id)


@blueprint.route(
    "/api/pipeline_schedules/<pk>/pipeline_runs", methods=["POST"], resources="schedules"
)
@blueprint.arguments(requests.RunBody)
@blueprint.response(200, responses.OneRun)
def start_run(body: dict[str, Any], pk: str) -> Shape:
    """Start a pipeline run of a trigger, with a key

    The trigger may be of any type, and inactive.
    """
    change = body["pipeline_run"]
    with transaction() as session:
        schedule = schedules.get_schedule(session, tenant(), mapping.parse_id(pk))
        request = TriggerRequest(
            submitted_by=caller().submitter,
            payload=TriggerPayload(
                variables=change.get("variables") or {},
                event_variables=change.get("event_variables") or {},
                merges_events=True,
            ),
            keeps_skipped=True,
            logical_date=change.get("execution_date"),
            backfill_id=_backfill(session, schedule.id, change.get("backfill_id")),
        )
        run = trigger(session, schedule, request, "/pipeline_run/event_variables")
    return _one(run.id)


@blueprint.route("/api/pipeline_runs/<pk>")
@blueprint.response(200, responses.OneRunDetailed)
def show_run(pk: str) -> Shape:
    """Get a pipeline run with its block runs"""
    return _one(mapping.parse_id(pk))


@blueprint.route("/api/pipeline_runs/<pk>", methods=["PUT"])
@blueprint.arguments(requests.RunChangeBody)
@blueprint.response(200, responses.OneRun)
def put_run(body: dict[str, Any], pk: str) -> Shape:
    """Cancel a pipeline run, or run again those of its blocks that did not complete

    `{"status": "cancelled"}` does nothing to a run that has ended. `{"pipeline_run_action":
    "retry_blocks"}` reopens the run; with `from_block_uuid` that block and all after it run again.
    """
    change = body["pipeline_run"]
    with transaction() as session:
        run = runs.get(session, tenant(), mapping.parse_id(pk))
        if change.get("pipeline_run_action") == "retry_blocks":
            retry_blocks(session, run, change.get("from_block_uuid"))
        elif not change.get("pipeline_run_action") and change.get("status") == "cancelled":
            cancel(session, run)
        else:
            message = 'give {"status": "cancelled"} or {"pipeline_run_action": "retry_blocks"}'
            raise Invalid("this cannot be done to a run", Mistake("/pipeline_run", message))
    return _one(run.id)


@blueprint.route("/api/pipeline_runs/<pk>", methods=["DELETE"])
@blueprint.response(200, responses.OneRun)
def delete_run(pk: str) -> Shape:
    """Delete a pipeline run that has ended, with its logs and files"""
    with transaction() as session:
        run = runs.get(session, tenant(), mapping.parse_id(pk))
        (view,) = mapping.run_views(session, [run])
        addresses = runs.delete(session, tenant(), run.id)
    store = store_of(settings())
    for address in addresses:
        store.remove(address)
    return {"pipeline_run": view, "metadata": None}


@blueprint.route("/api/block_runs")
@blueprint.arguments(requests.BlockQuery, location="query")
@blueprint.response(200, responses.Blocks)
def list_blocks(query: dict[str, Any]) -> Shape:
    """List the block runs of a pipeline run"""
    return _blocks(query, query["pipeline_run_id"])


@blueprint.route("/api/pipeline_runs/<pk>/block_runs")
@blueprint.arguments(requests.PageQuery, location="query")
@blueprint.response(200, responses.Blocks)
def list_run_blocks(query: dict[str, Any], pk: str) -> Shape:
    """List the block runs of a pipeline run, in the order of its pipeline"""
    return _blocks(query, pk)


def run_view(tenant_id: UUID, key: UUID | int) -> mapping.RunView:
    """The present state of a run. Raises NotFound."""
    with services().database.transaction(tenant_id, snapshot=True) as session:
        (view,) = mapping.run_views(session, [runs.get(session, tenant_id, key)])
    return view


def trigger(session: Session, schedule: Schedule, request: TriggerRequest, events: str) -> Run:
    """Start a run of a trigger. Raises Invalid with pointers into the body.

    `events` is where the body has the event variables.
    """
    options = RunOptions(settings().window, settings().cancel_grace)
    with mapping.mistakes_below("/pipeline_run", mapping.places_of_events(events, request.payload)):
        run, _ = schedules.trigger_now(session, schedule.tenant_id, schedule.id, request, options)
    return run


def cancel(session: Session, run: Run) -> None:
    """Cancel a run; one that has ended stays as it is."""
    with suppress(InvalidTransition):
        runs.cancel(session, tenant(), run.id, grace=settings().cancel_grace)


def retry_blocks(session: Session, run: Run, block: str | None = None) -> None:
    """Run blocks again in the same run; nothing happens where none failed.

    Raises Invalid for an unknown block, and InvalidTransition for a run that has not ended.
    """
    mode = RetryMode.FROM_STEP if block else RetryMode.FROM_FAILED
    rerun = RetryRequest(mode=mode, step=block, submitted_by=caller().submitter)
    try:
        runs.retry(session, tenant(), run.id, rerun, window=settings().window)
    except InvalidTransition:
        if runs.get(session, tenant(), run.id).state not in FINAL_RUNS:
            message = f"run {run.number} goes on; only blocks of a run that has ended are run again"
            raise InvalidTransition(message) from None
    except NotFound as error:
        mistake = Mistake("/pipeline_run/from_block_uuid", str(error))
        raise Invalid("there is no such block", mistake) from None


def _one(key: UUID | int) -> Shape:
    return {"pipeline_run": run_view(tenant(), key), "metadata": None}


def _page(query: dict[str, Any], schedule_id: UUID | None) -> Shape:
    limit, offset = query["limit"], query["offset"]
    order = mapping.run_sort(query.get("order_by", []))
    limited = with_time_limit if order.first else nullcontext  # an index has the others
    with transaction(snapshot=True) as session, limited(session):
        matching = mapping.run_filter(session, query, schedule_id)
        if matching is None:
            return {"pipeline_runs": [], "metadata": {"count": 0, "next": False}}
        part = paging.OffsetPage(offset, limit, matching, order)
        order = replace(order, after=part.after)
        rows = runs.page(
            session,
            tenant(),
            matching,
            order,
            limit + 1,
            offset=part.skip,
            only=mapping.RUN_COLUMNS,
        )
        count = runs.count(session, tenant(), matching) if part.total is None else part.total
        if not order.first:
            part.end([order.position(run) for run in rows[:limit]], count)
        views = mapping.run_views(session, rows[:limit])
    return {"pipeline_runs": views, "metadata": {"count": count, "next": len(rows) > limit}}


def _blocks(query: dict[str, Any], pk: str) -> Shape:
    start, end = query["offset"], query["offset"] + query["limit"]
    blocks = run_view(tenant(), mapping.parse_id(pk)).blocks
    metadata = {"count": len(blocks), "next": len(blocks) > end}
    return {"block_runs": blocks[start:end], "metadata": metadata}


def _backfill(session: Session, schedule_id: UUID, number: int | None) -> UUID | None:
    """The backfill of a trigger by its number. Raises Invalid."""
    if number is None:
        return None
    with suppress(NotFound):
        backfill = schedules.get_backfill(session, tenant(), number)
        if backfill.schedule_id == schedule_id:
            return backfill.id
    mistake = Mistake("/pipeline_run/backfill_id", "not a backfill of this trigger")
    raise Invalid("there is no such backfill", mistake)
