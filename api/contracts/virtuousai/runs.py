"""The addresses of runs."""

from collections.abc import Sequence
from typing import Any

from api.contracts.virtuousai.mapping import RUN_COLUMNS, RunView, run_views
from api.contracts.virtuousai.requests import RetryBody, RunsQuery
from api.contracts.virtuousai.responses import Run, RunList, Steps
from api.contracts.virtuousai.surface import RUNS, answers, blueprint, path_id
from api.contracts.virtuousai.vocabulary import STATES
from api.toolkit import paging
from api.toolkit.context import caller, settings, tenant, transaction
from orchestrator import models, runs
from orchestrator.errors import Conflict, Invalid, Mistake
from orchestrator.runs import RetryMode, RetryRequest
from orchestrator.states import FINAL_RUNS, RunState

_MAX_KEYS = 20  # of steps in a message
_ONE = f"{RUNS}/<run_id>"


@blueprint.route(RUNS)
@blueprint.arguments(RunsQuery, location="query")
@answers(RunList)
def page(query: dict[str, Any]) -> dict[str, Any]:
    """List automation runs

    The newest first. `pending` are those that have not begun, `running` also those that are being
    cancelled, `failed` also those that took too long.
    """
    status, limit = query.get("status"), query["limit"]
    filters = runs.RunFilter(state=STATES.states(status) if status else ())
    part = paging.OffsetPage(query["offset"], limit, filters)
    order = runs.RunSort(after=part.after)
    with transaction() as session:
        rows = runs.page(
            session, tenant(), filters, order, limit, offset=part.skip, only=RUN_COLUMNS
        )
        total = runs.count(session, tenant(), filters) if part.total is None else part.total
        part.end([order.position(run) for run in rows], total)
        return {"items": run_views(session, rows), "total": total}


@blueprint.route(_ONE)
@answers(Run, 404)
def show(run_id: str) -> RunView:
    """Get an automation run"""
    with transaction() as session:
        run = runs.get(session, tenant(), path_id(run_id, "run_id"))
        return run_views(session, [run])[0]


@blueprint.route(f"{_ONE}/steps")
@answers(Steps, 404)
def steps(run_id: str) -> models.Run:
    """Get the steps of an automation run

    The counters leave out steps that were skipped or cancelled.
    """
    with transaction() as session:
        return runs.get_with_steps(session, tenant(), path_id(run_id, "run_id"))


@blueprint.route(f"{_ONE}/cancel", methods=["POST"])
@answers(Run, 403, 404, 409)
def cancel(run_id: str) -> RunView:
    """Cancel an automation run

    What waits is cancelled in the answer. What runs is told to stop, and is `running` until its
    steps have let go. Cancelling it once more changes nothing.
    """
    id_ = path_id(run_id, "run_id")
    with transaction() as session:
        state = RunState(runs.lock(session, tenant(), id_).state)
        if state in FINAL_RUNS:
            raise Conflict(f"Run is already in a terminal state: {STATES[state]}")
        if state != RunState.CANCELLING:
            runs.cancel(session, tenant(), id_, grace=settings().cancel_grace)
        return run_views(session, [runs.get(session, tenant(), id_)])[0]


@blueprint.route(f"{_ONE}/retry", methods=["POST"])
@blueprint.arguments(RetryBody, required=False)
@answers(Run, 403, 404, 409)
def retry(body: dict[str, Any], run_id: str) -> RunView:
    """Run an automation run again, in place

    The run keeps its id and its version. `from_failed` runs again what did not complete,
    `from_step` the step `stepKey` and all that depends on it, `full` everything.
    """
    id_, mode = path_id(run_id, "run_id"), RetryMode(body["mode"])
    key = body["step_key"] if mode == RetryMode.FROM_STEP else None
    rerun = RetryRequest(mode=mode, step=key, submitted_by=caller().submitter)
    with transaction() as session:
        state = RunState(runs.lock(session, tenant(), id_).state)
        if state not in FINAL_RUNS:
            raise Conflict(f"Run is not in a terminal state yet: {STATES[state]}")
        if key is not None:
            _check_step(runs.steps(session, runs.get(session, tenant(), id_)), key)
        runs.retry(session, tenant(), id_, rerun, window=settings().window)
        # In this transaction: no worker has claimed a step of it yet.
        return run_views(session, [runs.get(session, tenant(), id_)])[0]


def _check_step(steps: Sequence[models.Step], key: str) -> None:
    """Raises Invalid, with the valid keys, unless a step has this one."""
    keys = [step.key for step in steps]
    if key not in keys:
        known = ", ".join(keys[:_MAX_KEYS]) + (" …" if len(keys) > _MAX_KEYS else "")
        message = f"The run has no such step; there are {known}"
        raise Invalid(message, Mistake("/stepKey", message))
