"""Ids, orders and filters in the words of the API, as the services take them."""

import re
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any
from uuid import UUID

from sqlalchemy.orm import Session

from api.contracts.mage import mapping
from api.toolkit.context import tenant
from orchestrator import schedules, workflows
from orchestrator.errors import Invalid, Mistake, NotFound
from orchestrator.runs import RunFilter, RunSort, SortOrder
from orchestrator.schedules import ScheduleFilter
from orchestrator.states import RunState

_TICK = timedelta(microseconds=1)
_ORDERS: Mapping[str, SortOrder] = {
    "execution_date": SortOrder.LOGICAL,
    "id": SortOrder.AGE,  # numbers are given in the order of time
    "created_at": SortOrder.AGE,
}
_LAST_FAILED = "last_run_failed"
_MOST_TRIGGERS = 1000  # that call cancelled what ran too long


def number(text: str) -> int:
    """An id in an address. Raises NotFound for what is none."""
    if not re.fullmatch(r"[0-9]{1,19}", text):
        raise NotFound(f"{text!r} is not the id of anything; ids are numbers")
    return int(text)


def order(columns: list[str]) -> RunSort:
    """The order of `col dir,col dir`, of which the first counts: no two rows share its value."""
    first = ",".join(columns).split(",")[0].strip()
    if not first:
        return RunSort(SortOrder.LOGICAL)
    name, _, direction = first.partition(" ")
    if name not in _ORDERS or direction.strip().lower() not in ("", "asc", "desc"):
        told = f"write one of {', '.join(_ORDERS)}, then asc or desc, as in `execution_date desc`"
        raise Invalid("the list cannot be put in this order", Mistake("/query/order_by[]", told))
    return RunSort(_ORDERS[name], descending=direction.strip().lower() == "desc")


def run_filter(
    session: Session, query: Mapping[str, Any], schedule_id: UUID | None
) -> RunFilter | None:
    """Which runs; None when there can be none. Raises Invalid."""
    backfill_id = None
    if "backfill_id" in query:
        try:
            backfill_id = schedules.get_backfill(session, tenant(), query["backfill_id"]).id
        except NotFound:
            return None
    pipelines = _pipelines(session, query)
    if pipelines is None:
        return None
    statuses = _list(query, "status") + _list(query, "statuses")
    start, end = query.get("start_timestamp"), query.get("end_timestamp")
    return RunFilter(
        **_states(session, statuses),
        workflow=pipelines,
        schedule_id=schedule_id,
        backfill_id=backfill_id,
        created_after=start and start - _TICK,  # both ends count
        created_before=end and end + _TICK,
    )


def _pipelines(session: Session, query: Mapping[str, Any]) -> Sequence[str] | None:
    """Whose runs, by the names and tags of pipelines; () is all, None is nobody's."""
    named = _list(query, "pipeline_uuid") + _list(query, "pipeline_uuids")
    tags = _list(query, "pipeline_tags")
    if not tags:
        return named
    tagged = workflows.tagged(session, tenant(), tags)
    return [name for name in tagged if not named or name in named] or None


def _list(query: Mapping[str, Any], name: str) -> tuple[str, ...]:
    given = query.get(name, [])
    text = ",".join([given] if isinstance(given, str) else given)
    return tuple(each.strip() for each in text.split(",") if each.strip())


def _states(session: Session, statuses: tuple[str, ...]) -> dict[str, Any]:
    """The filter of these statuses."""
    known = [*dict.fromkeys(mapping.STATES.values()), _LAST_FAILED]
    if unknown := [each for each in statuses if each not in known]:
        told = f"{unknown[0]!r} is none of {', '.join(known)}"
        raise Invalid("there is no such status", Mistake("/query/status", told))
    last = _LAST_FAILED in statuses
    wanted = {"failed"} if last else set(statuses)
    states = mapping.states(wanted)
    given: dict[str, Any] = {"state": states, "last_of_instant": last}
    if ("failed" in wanted) != ("cancelled" in wanted):
        given |= _timed_out(session, states)
    return given


def _timed_out(session: Session, states: list[RunState]) -> dict[str, Any]:
    """What the triggers change that call a run cancelled which ran too long."""
    which = ScheduleFilter(settings={"timeout_status": "cancelled"})
    found = schedules.page_of_schedules(session, tenant(), which, limit=_MOST_TRIGGERS)
    if not found:
        return {}
    theirs = RunFilter(state=[RunState.TIMED_OUT], schedule_ids=[each.id for each in found])
    if RunState.TIMED_OUT in states:
        return {"but": theirs}
    return {"state": (), "either": [RunFilter(state=states), theirs]}
