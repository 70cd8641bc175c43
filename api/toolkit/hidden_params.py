"""Parameters as answers show them: what the workflow declares `writeOnly` is hidden from everybody.

Every answer that has parameters reads them through here, when it is written: the request's own
transaction has ended by then.
"""

from collections.abc import Mapping
from functools import lru_cache
from typing import Any
from uuid import UUID

from marshmallow import fields

from api.toolkit.context import services, tenant
from api.toolkit.wire import computed
from orchestrator import workflows
from orchestrator.spec.hidden_params import Parts, hide


def shown_of_run(run: Any, name: str = "params") -> Any:
    """The parameters of a run, or its `variables`, which became some of them."""
    values = getattr(run, name)
    return hide(_of_version(run.version_id), values) if values else values


def shown_of_workflow(view: Any) -> Any:
    """The parameters of a schedule or a backfill, which may be a row or a dict."""
    row = view if isinstance(view, Mapping) else vars(view)
    if not row["params"]:
        return row["params"]
    with services().unscoped_database.transaction() as session:
        parts = workflows.hidden_parts_of(session, tenant(), row["workflow"], row.get("version"))
    return hide(parts, row["params"])


def run_field(name: str, **options: Any) -> fields.Field[Any]:
    """The field for the parameters of a run, or for its `variables`."""
    return computed(fields.Dict(**options), lambda run: shown_of_run(run, name))


def workflow_field() -> fields.Field[Any]:
    """The field for the parameters of a schedule or a backfill."""
    return computed(fields.Dict(), shown_of_workflow)


@lru_cache(maxsize=4_000)
def _of_version(version_id: UUID) -> Parts:
    """What a version hides, which never changes."""
    with services().unscoped_database.transaction() as session:
        return workflows.hidden_parts_of_version(session, version_id)
