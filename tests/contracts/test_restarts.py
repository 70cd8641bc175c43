"""When a run began that was retried in place, in each contract, and what keeps both instants."""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from flask.testing import FlaskClient
from sqlalchemy import Engine

from orchestrator.db.database import Database
from orchestrator.engine import attempts
from orchestrator.engine.outcomes import Failed, Outcome, Succeeded
from orchestrator.models import Run
from tests.contracts.adapter import Adapter
from tests.contracts.solvexia.helpers import earlier
from tests.support.factories import a_claim, a_run, a_spec, the_run

STARTS: Mapping[str, Callable[[Any], str | None]] = {
    "opendatadsl": lambda body: body.get("start"),
    "solvexia": lambda body: body["dateStarted"],
    "mage": lambda body: body["pipeline_run"]["started_at"],
    "mindzie": lambda body: body["execution"]["startTime"],
    "virtuousai": lambda body: body["startedAt"],
}
FIRST = ("solvexia",)  # the others publish the start of the retry


def _finish(database: Database, run: Run, *outcomes: Outcome) -> None:
    for outcome in outcomes:
        step = next(each for each in the_run(database, run).steps if each.state == "queued")
        claim = a_claim(database, step.task_id or "")
        assert claim is not None
        with database.transaction() as session:
            attempts.record_outcome(session, claim, outcome)


@pytest.mark.row("a run that was retried in place: which start is published")
def test_the_start_of_a_retried_run(
    adapter: Adapter, ours: FlaskClient, database: Database, engine: Engine
) -> None:
    run = a_run(database, a_spec(steps=2))
    _finish(database, run, Succeeded(), Failed("no", ("E",)))
    earlier(engine, run.id, hours=1)
    first = the_run(database, run).started_at
    assert first is not None

    def start() -> datetime | None:
        body = adapter.read(ours, run.tenant_id, adapter.wire_id(run)).json
        text = STARTS[adapter.name](body)
        if text is None:
            return None
        moment = datetime.fromisoformat(text)
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment

    assert _is_same(start(), first)
    assert (
        ours.post(f"/api/v1/runs/{run.id}/retry", json={"mode": "from_failed"}).status_code == 200
    )
    assert _is_same(start(), first if adapter.name in FIRST else None)
    _finish(database, run, Succeeded())
    again = the_run(database, run).started_at
    assert again is not None
    assert again - first > timedelta(minutes=59)
    assert _is_same(start(), first if adapter.name in FIRST else again)

    rows = ours.get(f"/api/v1/runs/{run.id}/steps/s1/attempts").json
    assert _is_same(datetime.fromisoformat(rows[0]["started_at"]), first)
    history = ours.get(f"/api/v1/runs/{run.id}/events").json["items"]
    assert [each["type"] for each in history].count("run.started") == 2


def _is_same(moment: datetime | None, expected: datetime | None) -> bool:
    """Whether it is the same instant, to the second as some contracts have it."""
    if moment is None or expected is None:
        return moment is expected
    return abs(moment - expected) < timedelta(seconds=1)
