"""Every body of the execution jobs API, key by key, for the reference tenant."""

import json
from typing import Any

import pytest
from flask.testing import FlaskClient
from sqlalchemy import Engine
from sqlalchemy.orm import Session
from werkzeug.test import TestResponse

from orchestrator import presence
from tests import reference
from tests.integration.contracts.conftest import Golden
from tests.integration.test_statistics import a_report

JOBS = f"/api/{reference.TENANT}/{reference.PROJECT}/execution"
NOW = {"timestamp", "lastUpdated", "elapsedTime", "estimatedCompletion", "dateSubmitted"}
NEW = {"requestId", "jobId", "downloadUrl", "estimatedStartTime", "dateCancelled"}
ASKED = {
    "jobName": "Q1 claims",
    "jobType": "ProcessMining",
    "priority": "High",
    "resource": {"resourceType": "Pipeline", "resourceId": str(reference.WORKFLOW)},
    "parameters": {"day": "2026-04-01"},
    "scheduling": {"executeImmediately": True, "timeoutMinutes": 90},
}


@pytest.fixture
def api(reference_api: FlaskClient) -> FlaskClient:
    """Asked with the reference key."""
    reference_api.environ_base["HTTP_AUTHORIZATION"] = f"Bearer {reference.SECRET}"
    return reference_api


def job(name: str, more: str = "") -> str:
    return f"{JOBS}/job/{reference.RUNS[name]}{more}"


READS = {
    "jobs": f"{JOBS}/jobs",
    "jobs_page": f"{JOBS}/jobs?page=2&pageSize=2",
    "results": job("failed", "/results"),
    "results_succeeded": job("succeeded", "/results"),
    "results_detailed": job("failed", "/results?format=detailed&includeArtifacts=False"),
    "results_of_reports": job("failed", "/results?outputType=reports"),
    "logs": job("failed", "/logs"),
    "logs_raw": job("failed", "/logs?format=raw&level=warn"),
    "ping": f"{JOBS}/ping",
    "unauthorized_ping": f"{JOBS}/unauthorized-ping",
}


def fixed(answer: TestResponse, names: set[str]) -> Any:
    """The body, with a placeholder for what another day would make different."""

    def hidden(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        return {key: f"<{key}>" if key in names and value else value for key, value in pairs}

    if not answer.is_json:
        return answer.text
    return json.loads(answer.text, object_pairs_hook=hidden)


def test_a_job(api: FlaskClient, golden: Golden) -> None:
    for name in reference.NUMBERS:
        answer = api.get(job(name))

        assert answer.status_code == 200
        names = NOW if name == "running" else set()
        golden(f"mindzie/job_{name}", fixed(answer, names))


def test_a_read(api: FlaskClient, golden: Golden) -> None:
    for name, address in READS.items():
        answer = api.get(address)

        assert answer.status_code == 200, answer.text
        golden(f"mindzie/{name}", fixed(answer, {"estimatedCompletion", "downloadUrl"}))


def test_the_system_and_its_queue(api: FlaskClient, engine: Engine, golden: Golden) -> None:
    with Session(engine) as session:
        presence.report(session, a_report())
        presence.report(session, a_report("w2@here", draining=True))
        session.commit()
    queued = api.post(f"{JOBS}/job", json=ASKED | {"priority": "Critical"})
    assert queued.status_code == 200, queued.text

    for name, address in (
        ("system_status", f"/api/{reference.TENANT}/execution/system/status"),
        ("queue", f"{JOBS}/queue"),
        ("queue_without_estimates", f"{JOBS}/queue?includeEstimates=False&priority=critical"),
    ):
        answer = api.get(address)
        assert answer.status_code == 200, answer.text
        golden(f"mindzie/{name}", fixed(answer, NOW | NEW))


def test_what_is_told_to_happen(api: FlaskClient, golden: Golden) -> None:
    again = {"retryReason": "db back", "modifyParameters": True, "updatedParameters": {"limit": 5}}
    told = {
        "submit": api.post(f"{JOBS}/job", json=ASKED),
        "retry": api.post(job("failed", "/retry"), json=again),
        "cancel": api.delete(job("pending"), json={"reason": "wrong window"}),
    }

    for name, answer in told.items():
        assert answer.status_code == 200, answer.text
        golden(f"mindzie/{name}", fixed(answer, NOW | NEW))


def test_what_is_refused(api: FlaskClient, golden: Golden) -> None:
    nobody = api.application.test_client()
    told = {
        "refused_400": api.get(f"{JOBS}/jobs?status=done&pageSize=0"),
        "refused_400_id": api.get(f"{JOBS}/job/17"),
        "refused_401": nobody.get(job("failed")),
        "refused_404": api.get(f"{JOBS}/job/{reference.KEY}"),
        "refused_409": api.delete(job("succeeded"), json={"reason": "wrong window"}),
    }

    for name, answer in told.items():
        assert str(answer.status_code) in name
        golden(f"mindzie/{name}", fixed(answer, {"timestamp", "requestId"}))
