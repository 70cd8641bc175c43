"""Logs: what happened to the runs of a tenant, in sentences."""

from typing import Any

from marshmallow import Schema

from api.contracts.solvexia import mapping, responses
from api.contracts.solvexia.surface import blueprint
from api.toolkit.context import tenant, transaction
from api.toolkit.fields import Timestamp
from orchestrator import runs
from orchestrator.runs import EventFilter

_UNASKED, _MOST = 50, 1000  # sentences of an answer, without a filter and with one
_SAID = {
    "run.created": "was created",
    "run.released": "was released",
    "run.amended": "got other properties",
    "run.queued": "was scheduled",
    "run.started": "started",
    "run.succeeded": "finished",
    "run.failed": "failed",
    "run.cancelling": "is being cancelled",
    "run.cancelled": "was cancelled",
    "run.timed_out": "timed out",
    "run.reopened": "was restarted",
    "run.late": "is late",
    "step.started": "started",
    "step.succeeded": "succeeded",
    "step.failed": "failed",
    "step.skipped": "was skipped",
    "step.waiting": "waits for its next attempt",
    "step.cancelled": "was cancelled",
}


class Span(Schema):
    """When it happened: from one instant to another."""

    since = Timestamp(data_key="startDate")
    until = Timestamp(data_key="endDate")


@blueprint.route("/logs")
@blueprint.arguments(Span, location="query")
@blueprint.response(200, responses.LogShown(many=True))
def list_logs(query: dict[str, Any]) -> list[dict[str, Any]]:
    """List what happened to process runs and their steps

    The latest first: 50 of all, or at most 1,000 of those in between.
    """
    which = EventFilter(types=_SAID.keys(), **query)
    limit = _MOST if query else _UNASKED
    with transaction() as session:
        found = runs.newest_with_places(session, tenant(), which, limit=limit)
    return [
        {
            "id": str(row.id),
            "message": _sentence(row),
            "user_name": mapping.user_name(row),
            "time_stamp": row.occurred_at,
        }
        for row in found
    ]


def _sentence(row: Any) -> str:
    run = f"rocess run pr-{row.run_number} ({row.workflow})"
    what = f"Step ds-{row.step_number} ({row.step_name}) of p" if row.step_number else "P"
    error = row.step_error if row.step_number else row.run_error
    why = f": {error['message']}" if row.type.endswith("failed") and error else ""
    return f"{what}{run} {_SAID[row.type]}{why}"
