"""Workflows: register versions, look them up, list them."""

from orchestrator.workflows.queries import (
    count,
    for_run,
    for_runs,
    get,
    get_version,
    hidden_parts_of,
    hidden_parts_of_version,
    latest_runs,
    latest_versions,
    newest,
    no_version,
    of_runs,
    page,
    search,
    tagged,
    versions,
)
from orchestrator.workflows.registration import annotate, register

__all__ = [
    "annotate", "count", "for_run", "for_runs", "get", "get_version", "hidden_parts_of",
    "hidden_parts_of_version", "latest_runs", "latest_versions", "newest", "no_version", "of_runs",
    "page", "register", "search", "tagged", "versions",
]  # fmt: skip
