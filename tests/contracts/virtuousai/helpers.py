"""Runs in given states, and readers of responses."""

import json
from collections.abc import Iterator
from typing import Any

from flask.testing import FlaskClient

from orchestrator.db.database import Database
from orchestrator.engine import attempts
from orchestrator.engine.outcomes import Failed, Outcome, Succeeded
from orchestrator.models import Run
from tests.contracts.adapters.virtuousai import ADAPTER, AUTOMATIONS, RUNS
from tests.support import reference_tenant
from tests.support.factories import a_claim, a_run, a_spec, the_run

EVENTS = "/api/v1/events"
NOBODY = ADAPTER.unknown_id
REFERENCE = {"X-API-Key": reference_tenant.SECRET}
RUN = f"{RUNS}/{reference_tenant.RUN}"
AUTOMATION = f"{AUTOMATIONS}/{reference_tenant.WORKFLOW}"


def end_step(database: Database, run: Run, key: str, outcome: Outcome) -> None:
    """Claim a step and record its outcome."""
    (step,) = (step for step in the_run(database, run).steps if step.key == key)
    assert step.task_id is not None
    claim = a_claim(database, step.task_id)
    assert claim is not None
    with database.transaction() as session:
        attempts.record_outcome(session, claim, outcome)


def a_failed_run(database: Database, **options: Any) -> Run:
    """A run whose second of three steps failed."""
    run = a_run(database, a_spec(steps=3), **options)
    end_step(database, run, "s1", Succeeded({"rows": 812}))
    end_step(database, run, "s2", Failed("HTTP 503 from target", ("HTTPError",)))
    return the_run(database, run)


def a_completed_run(database: Database) -> Run:
    """A completed run of one step."""
    run = a_run(database)
    end_step(database, run, "s1", Succeeded({"rows": 812}))
    return the_run(database, run)


def a_running_run(database: Database, steps: int = 2) -> Run:
    """A run whose first step is claimed."""
    run = a_run(database, a_spec(steps=steps))
    (first, *_) = the_run(database, run).steps
    assert first.task_id is not None
    assert a_claim(database, first.task_id) is not None
    return the_run(database, run)


def follow(client: FlaskClient, run: Run | str, **headers: str) -> Iterator[str]:
    """The parts of a stream, as they arrive."""
    run_id = run if isinstance(run, str) else run.id
    answer = client.get(f"{RUNS}/{run_id}/events", headers=headers)
    assert answer.status_code == 200, answer.get_data()
    try:
        yield from (part.decode() for part in answer.iter_encoded())
    finally:
        answer.close()


def events_in(parts: Iterator[str]) -> Iterator[dict[str, Any]]:
    """The events in the parts of a stream."""
    for part in parts:
        if "data: " in part:
            yield json.loads(part.partition("data: ")[2])


def mistake_of(client: FlaskClient, method: str, path: str, **sent: Any) -> tuple[list[Any], str]:
    """The location and the type of the first mistake."""
    answer = client.open(path, method=method, **sent)
    assert ADAPTER.refusal(answer) == 422, answer.json
    mistake: Any = answer.json["detail"][0]  # type: ignore[index]
    return mistake["loc"], mistake["type"]
