"""Logs: what happened to the runs of a tenant, in sentences."""

from collections.abc import Sequence
from typing import Any

from api.contracts.solvexia import requests, responses
from api.contracts.solvexia.surface import blueprint
from api.contracts.solvexia.vocabulary import EVENTS
from api.toolkit.context import tenant, transaction
from orchestrator import runs
from orchestrator.runs import EventFilter

_DEFAULT_LIMIT, _MAX_LIMIT = 50, 1000  # events of an answer, without a filter and with one


@blueprint.route("/logs", resources="events")
@blueprint.arguments(requests.LogQuery, location="query")
@blueprint.response(200, responses.Log(many=True))
def list_logs(query: dict[str, Any]) -> Sequence[Any]:
    """List what happened to process runs and their steps

    The latest first: 50 of all, or at most 1,000 of those in between.
    """
    matching = EventFilter(types=EVENTS.keys(), **query)
    limit = _MAX_LIMIT if query else _DEFAULT_LIMIT
    with transaction() as session:
        return runs.newest_events_with_steps(session, tenant(), matching, limit=limit)
