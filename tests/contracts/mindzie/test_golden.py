"""Every body of the execution jobs API, key by key, for the reference tenant."""

import json
from typing import Any

from flask.testing import FlaskClient
from sqlalchemy import Engine
from sqlalchemy.orm import Session
from werkzeug.test import TestResponse

from orchestrator.monitoring import workers
from tests.contracts.conftest import Golden
from tests.contracts.mindzie.helpers import BODY, JOBS, job
from tests.integration.monitoring.test_status import a_report
from tests.support import reference_tenant

NOW = {"timestamp", "lastUpdated", "elapsedTime", "estimatedCompletion", "dateSubmitted"}

ALIASES = {"nodeId", "executionNode"}  # of workers, by a secret


NEW = {"requestId", "jobId", "downloadUrl", "estimatedStartTime", "dateCancelled"}


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
    """The body, with placeholders for values that change from run to run."""

    def hidden(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        return {
            key: f"<{key}>" if key in names | ALIASES and value else _in_order(key, value)
            for key, value in pairs
        }

    if not answer.is_json:
        return answer.text
    return json.loads(answer.text, object_pairs_hook=hidden)


def _in_order(key: str, value: Any) -> Any:
    """The value; workers are in the order of names that change."""
    return sorted(value, key=json.dumps) if key == "executionNodes" else value


def test_what_is_read(reference_client: FlaskClient, golden: Golden) -> None:
    for name in reference_tenant.NUMBERS:
        answer = reference_client.get(job(name))

        assert answer.status_code == 200
        names = NOW if name == "running" else set()
        golden(f"mindzie/job_{name}", fixed(answer, names))
    for name, address in READS.items():
        answer = reference_client.get(address)

        assert answer.status_code == 200, answer.text
        golden(f"mindzie/{name}", fixed(answer, {"estimatedCompletion", "downloadUrl"}))


def test_the_system_and_its_queue(
    reference_client: FlaskClient, engine: Engine, golden: Golden
) -> None:
    with Session(engine) as session:
        workers.record_report(session, a_report())
        workers.record_report(session, a_report("w2@here", draining=True))
        session.commit()
    queued = reference_client.post(f"{JOBS}/job", json=BODY | {"priority": "Critical"})
    assert queued.status_code == 200, queued.text

    for name, address in (
        ("system_status", f"/api/{reference_tenant.TENANT}/execution/system/status"),
        ("queue", f"{JOBS}/queue"),
        ("queue_without_estimates", f"{JOBS}/queue?includeEstimates=False&priority=critical"),
    ):
        answer = reference_client.get(address)
        assert answer.status_code == 200, answer.text
        golden(f"mindzie/{name}", fixed(answer, NOW | NEW))


def test_what_is_changed(reference_client: FlaskClient, golden: Golden) -> None:
    again = {"retryReason": "db back", "modifyParameters": True, "updatedParameters": {"limit": 5}}
    answers = {
        "submit": reference_client.post(f"{JOBS}/job", json=BODY),
        "retry": reference_client.post(job("failed", "/retry"), json=again),
        "cancel": reference_client.delete(job("pending"), json={"reason": "wrong window"}),
    }

    for name, answer in answers.items():
        assert answer.status_code == 200, answer.text
        golden(f"mindzie/{name}", fixed(answer, NOW | NEW))


def test_what_is_refused(reference_client: FlaskClient, golden: Golden) -> None:
    nobody = reference_client.application.test_client()
    answers = {
        "refused_400": reference_client.get(f"{JOBS}/jobs?status=done&pageSize=0"),
        "refused_400_id": reference_client.get(f"{JOBS}/job/17"),
        "refused_401": nobody.get(job("failed")),
        "refused_404": reference_client.get(f"{JOBS}/job/{reference_tenant.KEY}"),
        "refused_409": reference_client.delete(job("succeeded"), json={"reason": "wrong window"}),
    }

    for name, answer in answers.items():
        assert str(answer.status_code) in name
        golden(f"mindzie/{name}", fixed(answer, {"timestamp", "requestId"}))
