"""A run as an answer shows it: with its steps, their output, and its place if it waits."""

from collections.abc import Mapping
from datetime import datetime
from types import SimpleNamespace
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy.orm import Session

from orchestrator.db import Row, statements
from orchestrator.errors import NotFound
from orchestrator.monitoring import status
from orchestrator.monitoring.status import WaitEstimate
from orchestrator.outputs import summaries
from orchestrator.outputs.summaries import RunOutput

_VIEW = "SELECT (run).*, steps, usage, wait FROM view_run(:run_id, :tenant_id)"
_TIMES = ("wake_at", "queued_at", "started_at", "finished_at")


class RunView(NamedTuple):
    """The columns of a run, its steps with their output, its own output, and its place."""

    run: Mapping[str, Any]
    steps: list[SimpleNamespace]
    output: RunOutput
    wait: WaitEstimate | None  # None: it does not wait, or for something else than its turn


def view(session: Session, tenant_id: UUID, run_id: UUID) -> RunView:
    """A run by id, by one statement. Raises NotFound."""
    row = statements.row(session, _VIEW, run_id=run_id, tenant_id=tenant_id)
    if row is None:
        raise NotFound(f"there is no run {run_id}")
    return to_view(row)


def to_view(row: Row) -> RunView:
    """The view of a row of the function `view_run`."""
    columns = row._asdict()
    usage, wait = columns.pop("usage"), columns.pop("wait")
    steps = [_step(each) for each in columns.pop("steps") or ()]
    output = summaries.summary_of_run(row, steps, usage)
    return RunView(columns, steps, output, status.wait_estimate(wait) if wait else None)


def _step(row: dict[str, Any]) -> SimpleNamespace:
    """A step with the attributes of a `summaries.StepOutput`."""
    for name in _TIMES:
        if row[name] is not None:
            row[name] = datetime.fromisoformat(row[name])
    for name, empty in (("metrics", {}), ("warning_list", []), ("data", {})):
        row[name] = row[name] or empty
    row["percent"] = None if row["progress"] is None else int(row["progress"] * 100)
    return SimpleNamespace(**row)
