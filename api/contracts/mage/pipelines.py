"""`/api/pipelines`: list and get them; cancel or retry many runs of one."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any
from uuid import UUID

from sqlalchemy.orm import Session

from api.contracts.mage import requests, responses
from api.contracts.mage.mapping import PipelineView, ScheduleView
from api.contracts.mage.runs import cancel, retry_blocks
from api.contracts.mage.schedules import make_initial_run
from api.contracts.mage.surface import blueprint
from api.contracts.mage.vocabulary import ENDS, IN_PROGRESS, SCHEDULE_STATUSES
from api.toolkit import paging
from api.toolkit.context import caller, must_lend, settings, tenant, transaction
from api.toolkit.wire import relocated
from orchestrator import runs, schedules, workflows
from orchestrator.access.permissions import Verb
from orchestrator.errors import Conflict, Invalid, InvalidTransition, Mistake, NotFound
from orchestrator.models import Run, Workflow
from orchestrator.runs import RetryMode, RetryRequest, RetryTarget, RunFilter, RunSort
from orchestrator.states import RunState

# What to do with the named runs, or with all in these states, each in a transaction of its own.
_ACTIONS: Mapping[str, tuple[Sequence[RunState], Callable[[Session, Run], None]]] = {
    "cancelled": (IN_PROGRESS, cancel),
    "retry_incomplete_block_runs": (ENDS["failed"], retry_blocks),
}
_BATCH = 100  # runs of one statement


@blueprint.route("/api/pipelines", resources="workflows")
@blueprint.arguments(requests.PipelineQuery, location="query")
@blueprint.response(200, responses.Pipelines)
def list_pipelines(query: dict[str, Any]) -> dict[str, Any]:
    """List pipelines by name"""
    limit = query["limit"]
    tags = [each.strip() for text in query.get("tags", ()) for each in text.split(",")]
    which: dict[str, Any] = {"name": query["search"]}
    with transaction() as session:
        if any(tags):
            which["names"] = workflows.tagged(session, tenant(), tags)
        part = paging.OffsetPage(query["offset"], limit, which)
        page = {
            "limit": limit + 1,
            "offset": part.skip,
            "after": part.after[0] if part.after else "",
        }
        rows = workflows.search(session, tenant(), **which, **page)
        count = workflows.count(session, tenant(), **which) if part.total is None else part.total
        part.end([(row.name,) for row in rows[:limit]], count)
        views = _views(session, rows[:limit], with_schedules=query["include_schedules"])
    return {"pipelines": views, "metadata": {"count": count, "next": len(rows) > limit}}


@blueprint.route("/api/pipelines/<uuid>", resources="workflows")
@blueprint.arguments(requests.PipelineQuery(only=["include_schedules"]), location="query")
@blueprint.response(200, responses.OnePipeline)
def show_pipeline(query: dict[str, Any], uuid: str) -> dict[str, Any]:
    """Get a pipeline, with its triggers if `include_schedules` is given"""
    with transaction() as session:
        row = workflows.get(session, tenant(), uuid)
        (view,) = _views(session, [row], with_schedules=query["include_schedules"])
    return {"pipeline": view, "metadata": None}


@blueprint.route("/api/pipelines/<uuid>", methods=["PUT"], resources="runs workflows:read")
@blueprint.arguments(requests.PipelineChangeBody)
@blueprint.response(200, responses.OnePipeline)
def put_pipeline(body: dict[str, Any], uuid: str) -> dict[str, Any]:
    """Cancel runs of a pipeline, or run them again

    `retry` makes a new run of each of `pipeline_runs`, all or none. `cancelled` stops those of
    `pipeline_runs`, of a trigger, or all that have not ended. `retry_incomplete_block_runs` runs
    again the blocks that did not complete, of those runs or of all that failed. `active` and
    `inactive` change its triggers.
    """
    change = body["pipeline"]
    if change["status"] == "retry":
        _repeat(uuid, change)
    elif change["status"] in SCHEDULE_STATUSES:
        _set_active(uuid, active=change["status"] == "active")
    else:
        states, act = _ACTIONS[change["status"]]
        for run in _chosen(uuid, change, states):
            with transaction() as session, suppress(Conflict):  # it runs again meanwhile
                act(session, run)
    with transaction() as session:
        (view,) = _views(session, [workflows.get(session, tenant(), uuid)])
    return {"pipeline": view, "metadata": None}


def _views(
    session: Session, rows: Sequence[Workflow], *, with_schedules: bool = False
) -> list[PipelineView]:
    """The views of workflows, by a fixed number of statements."""
    versions = workflows.latest_versions(session, rows)
    triggers: dict[str, list[ScheduleView]] = {}
    if with_schedules:
        caller().must("schedules", Verb.READ)
        triggers = {row.name: [] for row in rows}
        for schedule in schedules.schedules_of_workflows(session, tenant(), list(triggers)):
            triggers[schedule.workflow].append(ScheduleView(schedule))
    return [PipelineView(row, versions[row.id].spec, triggers.get(row.name)) for row in rows]


def _set_active(uuid: str, *, active: bool) -> None:
    """Make all triggers of a pipeline active, or inactive."""
    caller().must("schedules", Verb.CHANGE)
    with transaction() as session:
        workflows.get(session, tenant(), uuid)
        for row in schedules.schedules_of_workflows(session, tenant(), [uuid]):
            must_lend(row.run_as, "schedules")
            schedules.change_schedule(session, tenant(), row.id, active=active)
            make_initial_run(session, row)


def _repeat(uuid: str, change: dict[str, Any]) -> None:
    """New runs of the named ones, in one transaction."""
    if not change.get("pipeline_runs"):
        mistake = Mistake("/pipeline/pipeline_runs", "name the runs to run again")
        raise Invalid("there is nothing to run again", mistake)
    rerun = RetryRequest(
        mode=RetryMode.FULL, where=RetryTarget.NEW, latest=True, submitted_by=caller().submitter
    )
    with transaction() as session:
        for place, run in enumerate(_named(session, uuid, change["pipeline_runs"])):
            where = f"/pipeline/pipeline_runs/{place}"
            try:
                with relocated({"/params": f"{where}/variables"}):  # which the latest version takes
                    runs.retry(session, tenant(), run.id, rerun, window=settings().window)
            except InvalidTransition:
                message = f"run {run.number} goes on; only a run that has ended is run again"
                mistake = Mistake(where, message)
                raise Invalid("nothing was run again", mistake) from None


def _chosen(uuid: str, change: dict[str, Any], states: Sequence[RunState]) -> Iterator[Run]:
    if change.get("pipeline_runs"):
        with transaction() as session:
            named = _named(session, uuid, change["pipeline_runs"])
        yield from named
        return
    with transaction() as session:
        schedule_id = _schedule(session, uuid, change.get("pipeline_schedule_id"))
    matching = RunFilter(workflow=[uuid], state=states, schedule_id=schedule_id)
    after: tuple[Any, ...] | None = None
    while True:
        with transaction() as session:
            rows = runs.page(session, tenant(), matching, RunSort(after=after), _BATCH)
        yield from rows
        if len(rows) < _BATCH:
            return
        after = (rows[-1].id,)


def _named(session: Session, uuid: str, items: Sequence[Any]) -> list[Run]:
    """The runs of a pipeline by their ids. Raises Invalid for an unknown one."""
    workflows.get(session, tenant(), uuid)
    rows = []
    for place, item in enumerate(items):
        number = item.get("id") if isinstance(item, dict) else item
        message = 'must be a run with its id, as in {"id": 880}'
        if isinstance(number, int) and not isinstance(number, bool):
            message = f"{uuid} has no run {number}"
            with suppress(NotFound):
                run = runs.get(session, tenant(), number)
                if run.workflow == uuid:
                    rows.append(run)
                    continue
        raise Invalid("these are no runs", Mistake(f"/pipeline/pipeline_runs/{place}", message))
    return rows


def _schedule(session: Session, uuid: str, number: int | None) -> UUID | None:
    """The id of a trigger of a pipeline. Raises NotFound, and Invalid for another pipeline's."""
    workflows.get(session, tenant(), uuid)
    if number is None:
        return None
    with suppress(NotFound):
        schedule = schedules.get_schedule(session, tenant(), number)
        if schedule.workflow == uuid:
            return schedule.id
    mistake = Mistake("/pipeline/pipeline_schedule_id", f"{uuid} has no trigger {number}")
    raise Invalid("there is no such trigger", mistake)
