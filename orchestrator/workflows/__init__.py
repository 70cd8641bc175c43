"""Workflows: register versions, look them up, list them."""

from orchestrator.workflows.queries import (
    count,
    for_run,
    get,
    get_version,
    hidden_parts_of,
    hidden_parts_of_version,
    latest_runs,
    latest_versions,
    newest,
    of_runs,
    page,
    search,
    tagged,
    versions,
)
from orchestrator.workflows.registration import annotate, register
from orchestrator.workflows.sources import (
    Source,
    find_source,
    read_source,
    read_sources,
    source_in_cache,
)

__all__ = [
    "Source", "annotate", "count", "find_source", "for_run", "get", "get_version",
    "hidden_parts_of", "hidden_parts_of_version", "latest_runs", "latest_versions", "newest",
    "of_runs", "page", "read_source", "read_sources", "register", "search", "source_in_cache",
    "tagged", "versions",
]  # fmt: skip
