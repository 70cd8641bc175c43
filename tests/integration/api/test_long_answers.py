"""An answer of 10,000 steps delays nobody: `/healthz` answers while it is read and written."""

import json
from collections.abc import Iterator
from functools import partial

import pytest
from flask import Flask
from sqlalchemy import Engine, text

from api.toolkit.json_bodies import JsonProvider
from config.settings import Settings
from orchestrator import workflows
from orchestrator.db.database import Database
from orchestrator.models import Run
from tests.support.factories import a_run
from tests.support.health_probe import assert_answered, probed
from tests.support.http_attacks import ServedApi, serve

STEPS = 9_999
READS = {
    "a run": "/api/v1/runs/{id}",
    "its steps": "/api/v1/runs/{id}/steps",
    "its causes": "/api/v1/runs/{id}/explain",
    "its events": "/api/v1/runs/{id}/events?limit=200",
    "its workflow": "/api/v1/workflows/long",
    "its versions": "/api/v1/workflows/long/versions",
    "a run of Mage": "/api/pipeline_runs/{number}",
    "its blocks of Mage": "/api/pipeline_runs/{number}/block_runs",
    "runs of Mage": "/api/pipeline_runs",
    "its run of virtuousai": "/api/v1/automation-runs/{id}",
    "its steps of virtuousai": "/api/v1/automation-runs/{id}/steps",
    "automations of virtuousai": "/api/v1/automations",
    "a run of SolveXia": "/api/v1/processruns/pr-{number}",
    "its steps of SolveXia": "/api/v1/processruns/pr-{number}/steps",
    "a process of SolveXia": "/api/v1/processes/p-{workflow}/steps",
    "a job of mindzie": "/api/{tenant}/{project}/execution/job/{id}",
    "its results of mindzie": "/api/{tenant}/{project}/execution/job/{id}/results",
    "its logs of mindzie": "/api/{tenant}/{project}/execution/job/{id}/logs",
    "an execution of OpenDataDSL": "/api/process-exec/v1/{id}",
    "executions of OpenDataDSL": "/api/process-exec/v1",
    "a process of OpenDataDSL": "/api/process/v1/long",
}
# As if each step had run, with an output.
_HISTORY = """
    INSERT INTO attempts (step_id, number, run_id, task_id, worker, outcome, usage, lease_until,
        started_at, finished_at)
    SELECT id, 1, run_id, 'x', 'w1', 'succeeded', '{"cpu_seconds": 0.5}', now(), now(), now()
    FROM steps;
    INSERT INTO outputs (step_id, attempt, tenant_id, run_id, progress, stage, message, metrics)
    SELECT id, 1, tenant_id, run_id, 0.5, 'stage', 'a message', '{"records": 1}' FROM steps;
    UPDATE steps SET state = 'succeeded', attempt = 1, started_at = now(), finished_at = now(),
        result = '{"rows": 12, "list": [1, 2, 3]}';
    UPDATE runs SET state = 'running', started_at = now()
"""


@pytest.fixture(scope="module")
def api(settings: Settings) -> Iterator[ServedApi]:
    with serve(settings) as served:
        yield served


@pytest.fixture(params=["before it starts", "with outputs"])
def run(request: pytest.FixtureRequest, database: Database, engine: Engine) -> Run:
    """A run of the most steps."""
    run = a_run(database, {
        "name": "long", "steps": [{"key": f"s{n}", "uses": "noop"} for n in range(STEPS)],
    })  # fmt: skip
    if request.param == "with outputs":
        with engine.begin() as connection:
            connection.execute(text(_HISTORY))
            # As the scheduler does, or the plans made for empty tables would be kept.
            connection.execute(text("ANALYZE steps, attempts, outputs"))
    return run


def test_healthz_answers_while_steps_are_shown(
    api: ServedApi, run: Run, database: Database
) -> None:
    with database.transaction() as session:
        workflow = workflows.get(session, run.tenant_id, "long").number
    names = {"tenant": run.tenant_id, "project": run.project_id, "workflow": workflow}
    for path in READS.values():
        address = path.format(id=run.id, number=run.number, **names)
        assert_answered(partial(_delay, api, address))


def _delay(api: ServedApi, address: str) -> float:
    """The longest delay of /healthz during two such requests."""
    with probed(api.url, api.pid) as delays:
        for _ in range(2):
            answer = api.get(address)
            assert answer.status_code in (200, 409), answer.text[:300]  # 409: it has not ended
    return max(delays)


_MANY = [{"n": n, "text": "ä\u2028", "more": {"list": [n] * 3}} for n in range(50)]


@pytest.mark.parametrize(
    "document",
    [_MANY, {"items": _MANY, "next": None}, {"a": {"b": {"c": _MANY}}, "d": _MANY[:2]}, {"a": []},
     [1] * 50, {"one": {"two": {"three": {"four": _MANY}}}}, [_MANY, _MANY], "text"],
)  # fmt: skip
def test_a_long_answer_is_the_same_json(app: Flask, document: object) -> None:
    separators = (",", ":")
    provider = JsonProvider(app)
    assert provider.dumps(document, separators=separators) == json.dumps(
        document, separators=separators
    )
    assert provider.dumps(document) == json.dumps(document)
