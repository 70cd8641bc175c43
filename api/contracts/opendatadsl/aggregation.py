"""Lists of values, buckets of them, and pipelines: what is asked of many executions at once."""

from collections.abc import Mapping
from functools import partial
from typing import Any
from uuid import UUID

from sqlalchemy.orm import Session

from api.contracts.opendatadsl import mapping, requests
from api.contracts.opendatadsl.query_json import Measured, Pipeline
from api.contracts.opendatadsl.requests import MOST, Asked
from orchestrator.search import queries
from orchestrator.search.conditions import Value, all_of
from orchestrator.search.queries import Measure

_COUNTED = {"count": (Measure.COUNT, None)}


def distinct(session: Session, tenant_id: UUID, asked: Asked, *, detailed: bool) -> list[str]:
    """The different values of a field."""
    return [each["_id"] for each in _buckets(session, tenant_id, asked, asked.distinct, detailed)]


def fieldinfo(
    session: Session, tenant_id: UUID, asked: Asked, *, detailed: bool
) -> list[dict[str, Any]]:
    """The different values of a field, the most frequent first, and how to filter by each."""
    found = _buckets(session, tenant_id, asked, asked.fieldinfo, detailed)
    found.sort(key=lambda each: (-each["count"], each["_id"]))
    return [{**each, "filter": {asked.fieldinfo: each["_id"]}} for each in found]


def _buckets(
    session: Session, tenant_id: UUID, asked: Asked, name: str | None, detailed: bool
) -> list[dict[str, Any]]:
    value = requests.shown_field(name or "", "/query", detailed=detailed).text
    by = {"_id": value}
    found = queries.group_runs(session, tenant_id, asked.condition, by, _COUNTED, limit=MOST)
    return [{**each, "_id": str(each["_id"])} for each in found if each["_id"] is not None]


def aggregate(
    session: Session, tenant_id: UUID, asked: Asked, *, detailed: bool
) -> list[dict[str, Any]]:
    """What a pipeline gives: groups, or without one executions themselves."""
    pipeline = asked.pipeline or Pipeline()
    asked.condition = all_of(asked.condition, pipeline.condition)
    if pipeline.keys is None:
        return _plain(session, tenant_id, asked, pipeline, detailed=detailed)
    found = _groups(session, tenant_id, asked, pipeline, detailed=detailed)
    for name, descends in reversed(pipeline.sort):
        found.sort(key=partial(_rank, name), reverse=descends)
    end = None if pipeline.limit is None else pipeline.skip + pipeline.limit
    return [_projected(each, pipeline.project) for each in found[pipeline.skip : end]]


def _plain(
    session: Session, tenant_id: UUID, asked: Asked, pipeline: Pipeline, *, detailed: bool
) -> list[dict[str, Any]]:
    order = requests.order_of(pipeline.sort, "/query/_aggregate") or asked.order
    limit = min(pipeline.limit or MOST, MOST)
    found = mapping.logs(
        session, tenant_id, asked.condition, order,
        limit=limit, offset=pipeline.skip, detailed=detailed,
    )  # fmt: skip
    return [_projected(each, pipeline.project) for each in found]


def _groups(
    session: Session, tenant_id: UUID, asked: Asked, pipeline: Pipeline, *, detailed: bool
) -> list[dict[str, Any]]:
    pointer = "/query/_aggregate"
    keys = {
        f"key {name}": requests.shown_field(each, pointer, detailed=detailed).text
        for name, each in (pipeline.keys or {}).items()
    }
    measures: dict[str, tuple[Measure, Value | None]] = dict(_COUNTED)
    for name, measured in pipeline.measures.items():
        if isinstance(measured.of, str) and measured.function in ("$min", "$max"):
            value = requests.shown_field(measured.of, pointer, detailed=detailed).text
            measures[f"said {name}"] = (Measure(measured.function[1:]), value)
    rows = queries.group_runs(session, tenant_id, asked.condition, keys, measures, limit=MOST)
    return [_group(row, pipeline) for row in rows if row["count"]]


def _group(row: Mapping[str, Any], pipeline: Pipeline) -> dict[str, Any]:
    keys = {name: _said(row[f"key {name}"]) for name in pipeline.keys or ()}
    group: dict[str, Any] = {"_id": keys.get("_id") if pipeline.single else keys}
    for name, measured in pipeline.measures.items():
        group[name] = _measure(row, name, measured)
    return group


def _measure(row: Mapping[str, Any], name: str, measured: Measured) -> Any:
    """No field of an execution is a number: their sum is 0, and they have no average."""
    if isinstance(measured.of, str):
        none = {"$sum": 0, "$avg": None}
        return none[measured.function] if measured.function in none else _said(row[f"said {name}"])
    return row["count"] * measured.of if measured.function == "$sum" else measured.of


def _said(value: Any) -> str | None:
    return None if value is None else str(value)


def _rank(name: str, group: Mapping[str, Any]) -> tuple[int, float, str]:
    """Nothing before numbers before texts."""
    value = group.get(name)
    if isinstance(value, int | float):
        return (1, value, "")
    return (0, 0, "") if value is None else (2, 0, str(value))


def _projected(found: dict[str, Any], project: Mapping[str, bool] | None) -> dict[str, Any]:
    if not project:
        return found
    shows = any(shown for name, shown in project.items() if name != "_id")
    return {
        name: value
        for name, value in found.items()
        if project.get(name, name == "_id" or not shows)
    }
