"""Aggregation over executions: distinct values, facets, pipelines."""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any, Literal
from uuid import UUID

from sqlalchemy.orm import Session

from api.contracts.opendatadsl import mapping, requests
from api.contracts.opendatadsl.query_json import Pipeline
from api.contracts.opendatadsl.requests import MAX_LIMIT, Search
from orchestrator.search import queries
from orchestrator.search.conditions import Value, all_of


def distinct(session: Session, tenant_id: UUID, query: Search) -> list[str]:
    """The distinct values of a field."""
    return [each["_id"] for each in _buckets(session, tenant_id, query, query.distinct)]


def fieldinfo(session: Session, tenant_id: UUID, query: Search) -> list[dict[str, Any]]:
    """The distinct values of a field, the most frequent first, each with its count and filter."""
    buckets = _buckets(session, tenant_id, query, query.fieldinfo)
    buckets.sort(key=lambda each: (-each["count"], each["_id"]))
    return [{**each, "filter": {query.fieldinfo: each["_id"]}} for each in buckets]


def _buckets(
    session: Session, tenant_id: UUID, query: Search, name: str | None
) -> list[dict[str, Any]]:
    by = {"_id": requests.single_field(name or "", "/query", query.fields).text}
    buckets = queries.group_runs(session, tenant_id, query.condition, by, {}, limit=MAX_LIMIT)
    return [{**each, "_id": str(each["_id"])} for each in buckets if each["_id"] is not None]


def aggregate(session: Session, tenant_id: UUID, query: Search) -> list[dict[str, Any]]:
    """The result of a pipeline: groups, or executions if it has no $group."""
    pipeline = query.pipeline or Pipeline()
    query.condition = all_of(query.condition, pipeline.condition)
    if pipeline.keys is None:
        sort = requests.order_of(pipeline.sort, "/query/_aggregate") or query.sort
        limit = min(pipeline.limit or MAX_LIMIT, MAX_LIMIT)
        page = replace(query, sort=sort, limit=limit, skip=pipeline.skip, project=())
        logs = mapping.logs(session, tenant_id, page)
        return [_project(each, pipeline.project) for each in logs]
    groups = _groups(session, tenant_id, query, pipeline)
    for name, descends in reversed(pipeline.sort):
        groups.sort(key=partial(_rank, name), reverse=descends)
    end = None if pipeline.limit is None else pipeline.skip + pipeline.limit
    return [_project(each, pipeline.project) for each in groups[pipeline.skip : end]]


def _groups(
    session: Session, tenant_id: UUID, query: Search, pipeline: Pipeline
) -> list[dict[str, Any]]:
    pointer = "/query/_aggregate"
    keys = {
        f"key {name}": requests.single_field(each, pointer, query.fields).text
        for name, each in (pipeline.keys or {}).items()
    }
    extremes: dict[str, tuple[Literal["min", "max"], Value]] = {}
    for name, (function, of) in pipeline.accumulators.items():
        if isinstance(of, str) and function in ("$min", "$max"):
            value = requests.single_field(of, pointer, query.fields).text
            extremes[f"value {name}"] = ("min" if function == "$min" else "max", value)
    rows = queries.group_runs(session, tenant_id, query.condition, keys, extremes, limit=MAX_LIMIT)
    return [_group(row, pipeline) for row in rows if row["count"]]


def _group(row: Mapping[str, Any], pipeline: Pipeline) -> dict[str, Any]:
    keys = {name: _text(row[f"key {name}"]) for name in pipeline.keys or ()}
    values = {
        name: _accumulate(row, name, function, of)
        for name, (function, of) in pipeline.accumulators.items()
    }
    return {"_id": keys.get("_id") if pipeline.single else keys, **values}


def _accumulate(row: Mapping[str, Any], name: str, function: str, of: float | str) -> Any:
    """No field is numeric: $sum of a field is 0, $avg is null."""
    if isinstance(of, str):
        return 0 if function == "$sum" else _text(row.get(f"value {name}"))
    return row["count"] * of if function == "$sum" else of


def _text(value: Any) -> str | None:
    return None if value is None else str(value)


def _rank(name: str, group: Mapping[str, Any]) -> tuple[int, float, str]:
    """Sort key: null, then numbers, then texts."""
    value = group.get(name)
    if isinstance(value, int | float):
        return (1, value, "")
    return (0, 0, "") if value is None else (2, 0, str(value))


def _project(document: dict[str, Any], project: Mapping[str, bool] | None) -> dict[str, Any]:
    if not project:
        return document
    shows = any(included for name, included in project.items() if name != "_id")
    return {
        name: value
        for name, value in document.items()
        if project.get(name, name == "_id" or not shows)
    }
