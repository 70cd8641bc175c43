"""Parameters as answers show them: what the workflow declares `writeOnly` is hidden from everybody.

Every answer that has parameters reads them through here, when it is written: the request's own
transaction has ended by then.
"""

from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any
from uuid import UUID

from flask import g
from marshmallow import fields

from api.toolkit.context import services, tenant
from api.toolkit.wire import computed
from orchestrator import workflows
from orchestrator.spec.hidden_params import Parts, hide


def shown_of_run(run: Any, name: str = "params") -> Any:
    """The parameters of a run, or its `variables` or `event_variables`, which became some."""
    values = getattr(run, name)
    return hide(_of_version(run.version_id), values) if values else values


def shown_of_workflow(view: Any) -> Any:
    """The parameters of a schedule or a backfill, which may be a row or a dict."""
    row = view if isinstance(view, Mapping) else vars(view)
    if not row["params"]:
        return row["params"]
    return hide(_of_workflows([row])[_which(row)], row["params"])


def read_of_workflows(rows: Iterable[Any]) -> None:
    """Read by one query what the rows of an answer need, before `shown_of_workflow` shows each."""
    _of_workflows([vars(row) for row in rows if row.params])


def run_field(name: str, **options: Any) -> fields.Field[Any]:
    """The field for the parameters of a run, or for its `variables` or `event_variables`."""
    return computed(fields.Dict(**options), lambda run: shown_of_run(run, name))


def workflow_field() -> fields.Field[Any]:
    """The field for the parameters of a schedule or a backfill."""
    return computed(fields.Dict(), shown_of_workflow)


def _of_workflows(rows: Iterable[Mapping[str, Any]]) -> Mapping[Any, Parts]:
    """What the workflows of these rows hide, and those of others of the same request."""
    known: dict[Any, Parts] = g.setdefault("hidden_parts", {})
    if new := {_which(row) for row in rows} - known.keys():
        with services().unscoped_database.transaction() as session:
            known |= workflows.hidden_parts_of(session, tenant(), new)
    return known


def _which(row: Mapping[str, Any]) -> tuple[str, int | None]:
    return row["workflow"], row.get("version")


@lru_cache(maxsize=4_000)
def _of_version(version_id: UUID) -> Parts:
    """What a version hides, which never changes."""
    with services().unscoped_database.transaction() as session:
        return workflows.hidden_parts_of_version(session, version_id)
