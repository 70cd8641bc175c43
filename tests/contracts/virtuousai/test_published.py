"""Every curl line of VirtuousAI's published document, as curl sends it."""

import json
import re
from typing import Any

import pytest
from flask.testing import FlaskClient

from orchestrator.db.database import Database
from tests.contracts.adapters.virtuousai import RUNS
from tests.contracts.virtuousai.helpers import a_failed_run, a_running_run

RUN = {
    "automationId", "automationVersionId", "completedAt", "concurrencyKey", "createdAt",
    "durationSeconds", "error", "externalJobId", "id", "orchestratorType", "startedAt", "status",
    "tenantId", "triggerSourceId", "triggerSourceType", "triggerType", "updatedAt", "versionNumber",
}  # fmt: skip
STEP = {
    "actionRunId", "completedAt", "decisionId", "dependsOn", "durationSeconds", "error", "key",
    "name", "result", "resultTruncated", "startedAt", "status",
}  # fmt: skip


def curl(client: FlaskClient, line: str) -> Any:
    """The answer to a line `-X METHOD path [-d body]`, with the content type that curl sends."""
    method, path = line.split()[1:3]
    _, _, data = line.partition(" -d ")
    headers = {"Content-Type": "application/json"} if data else {}
    return client.open(path, method=method, data=data.strip("'") or None, headers=headers)


@pytest.mark.row("VirtuousAI: every curl line of the document, with every published member")
def test_the_published_lines_answer_as_published(client: FlaskClient, database: Database) -> None:
    run, running = a_failed_run(database), a_running_run(database)

    page = curl(client, f"-X GET {RUNS}").json
    one = curl(client, f"-X GET {RUNS}/{run.id}").json
    steps = curl(client, f"-X GET {RUNS}/{run.id}/steps").json
    stream = curl(client, f"-X GET {RUNS}/{run.id}/events").text
    cancelled = curl(client, f"-X POST {RUNS}/{running.id}/cancel").json
    retried = curl(client, f"-X POST {RUNS}/{run.id}/retry -d '{{}}'").json

    assert set(page) == {"items", "total"}
    assert all(set(each) == RUN for each in (*page["items"], one, cancelled, retried))
    assert set(steps) == {
        "automationRunId", "completedCount", "failedCount", "pendingCount", "runningCount", "steps",
    }  # fmt: skip
    assert all(set(each) == STEP for each in steps["steps"])
    assert [json.loads(each) for each in re.findall(r"^data: (.*)$", stream, re.M)]
    assert (retried["id"], retried["status"]) == (one["id"], "pending")
