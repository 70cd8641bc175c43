"""What runs are made of: a version of a workflow, and the check of its parameters.

A version never changes, so those that runs were submitted of lately are kept. Which one is the
latest may change at any time: `orchestrator/db/functions/submit_run.sql` compares.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias
from uuid import UUID

from sqlalchemy.orm import Session

from orchestrator.db import Row, statements
from orchestrator.errors import NotFound
from orchestrator.spec.params import ParamsCheck, compile_params

VersionName: TypeAlias = tuple[
    str, int | None
]  # a workflow's name, and a version; None: the latest

MAX_SOURCES = 200
_MAX_SIZE = 64 * 1024  # characters of a spec without its steps
_SELECT = """
    SELECT which.name AS workflow, which.number AS named,
        CAST(workflows.id AS text) AS workflow_id, workflows.version AS latest,
        CAST(project_id AS text) AS project_id, CAST(versions.id AS text) AS version_id,
        versions.number AS version, spec - 'steps' AS spec, jsonb_array_length(plan) AS steps,
        length(CAST(spec - 'steps' AS text)) AS size
    FROM unnest(CAST(:names AS text[]), CAST(:numbers AS int[])) AS which(name, number)
    JOIN workflows ON workflows.tenant_id = :tenant_id AND workflows.name = which.name
    LEFT JOIN versions ON versions.workflow_id = workflows.id
      AND versions.number = coalesce(which.number, workflows.version)
"""


@dataclass(frozen=True, kw_only=True)
class Source:
    """A version of a workflow, with what its runs take over; ids as text, for JSON."""

    workflow_id: str
    project_id: str
    workflow: str
    version_id: str
    version: int
    spec: Mapping[str, Any]  # without the steps
    steps: int

    @cached_property
    def check(self) -> ParamsCheck:
        """The check of the parameters of a run."""
        return compile_params(self.spec.get("params", {}))

    @cached_property
    def check_incomplete(self) -> ParamsCheck:
        """The same without required parameters, which may be added until the run is started."""
        return compile_params(self.spec.get("params", {}), complete=False)


_cache: dict[tuple[UUID, VersionName], Source] = {}  # the last used one at the end


def source_in_cache(tenant_id: UUID, which: VersionName) -> Source | None:
    """The source as it was when it was read last, if it is kept."""
    source = _cache.pop((tenant_id, which), None)
    if source is not None:
        _cache[tenant_id, which] = source
    return source


def read_source(session: Session, tenant_id: UUID, which: VersionName) -> Source:
    """The source as it is now. Raises NotFound."""
    return find_source(read_sources(session, tenant_id, [which]), which)


def read_sources(
    session: Session, tenant_id: UUID, which: Collection[VersionName]
) -> Mapping[VersionName, Source | NotFound]:
    """Sources by one query; the error in place of a version that does not exist."""
    pairs = list(which)
    params = {"names": [name for name, _ in pairs], "numbers": [number for _, number in pairs]}
    rows = statements.rows(session, _SELECT, tenant_id=tenant_id, **params)
    return {(row.workflow, row.named): _source(tenant_id, row) for row in rows}


def find_source(sources: Mapping[VersionName, Source | NotFound], which: VersionName) -> Source:
    """One of the sources. Raises NotFound."""
    source = sources.get(which) or NotFound(f"there is no workflow {which[0]!r}")
    if isinstance(source, NotFound):
        raise source
    return source


def _source(tenant_id: UUID, row: Row) -> Source | NotFound:
    if row.version_id is None:
        return no_version(row.workflow, row.latest, row.named)
    columns = row._asdict()
    named, size, _ = columns.pop("named"), columns.pop("size"), columns.pop("latest")
    source = Source(**columns)
    if size <= _MAX_SIZE:
        _cache[tenant_id, (source.workflow, named)] = source
        while len(_cache) > MAX_SOURCES:
            del _cache[next(iter(_cache))]
    return source


def no_version(workflow: str, latest: int, number: int | None) -> NotFound:
    """The error for a version that a workflow does not have."""
    return NotFound(f"workflow {workflow!r} has no version {number}; the latest is {latest}")
