"""Workflows: register versions, look them up, list them."""

from orchestrator.workflows.queries import (
    by_title,
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
    params_schema,
    search,
    tagged,
    tagged_version,
    titles,
    titles_of_runs,
    versions,
)
from orchestrator.workflows.registration import annotate, register, tag_version
from orchestrator.workflows.sources import (
    Source,
    find_source,
    read_source,
    read_sources,
    source_in_cache,
)

__all__ = [
    "Source", "annotate", "by_title", "count", "find_source", "for_run", "get", "get_version",
    "hidden_parts_of", "hidden_parts_of_version", "latest_runs", "latest_versions", "newest",
    "of_runs", "page", "params_schema", "read_source", "read_sources", "register", "search",
    "source_in_cache", "tag_version", "tagged", "tagged_version", "titles", "titles_of_runs",
    "versions",
]  # fmt: skip
