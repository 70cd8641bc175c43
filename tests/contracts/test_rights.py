"""What a key with narrow scopes is shown in answers that have parts of several resources."""

import re
from typing import Any

import pytest
from flask.testing import FlaskClient
from sqlalchemy import Engine, text
from sqlalchemy.orm import Session

from orchestrator.access.keys import NewKey, key_row, new_secret
from orchestrator.models import Role
from tests.contracts.solvexia.helpers import RUN, V1
from tests.support import reference_tenant
from tests.support.api_keys import with_key

JOBS = f"/api/{reference_tenant.TENANT}/{reference_tenant.PROJECT}/execution"
JOB = f"{JOBS}/job/{reference_tenant.RUN}"
NATIVE = f"{V1}/runs/{reference_tenant.RUN}"
LOAD = "ds-12490"  # the step that has a file
WORD = "loading 2026-04-01"  # in its log


class Keys:
    """Keys of the reference tenant."""

    def __init__(self, client: FlaskClient, engine: Engine) -> None:
        self._client, self._engine = client, engine

    def __call__(self, *scopes: str, role: Role = Role.ADMIN) -> FlaskClient:
        secret = new_secret()
        new = NewKey(name="narrow", role=role, scopes=scopes or None)
        with Session(self._engine) as session, session.begin():
            session.add(key_row(reference_tenant.TENANT, secret, new))
        return with_key(self._client, secret)


@pytest.fixture
def keyed(reference_client: FlaskClient, engine: Engine) -> Keys:
    """The API with a new key of the reference tenant."""
    return Keys(reference_client, engine)


def _statuses(caller: FlaskClient, *addresses: str) -> set[int]:
    return {caller.get(address).status_code for address in addresses}


def test_logs_and_results_take_their_own_scopes_in_every_api(keyed: Keys) -> None:
    runs = keyed("runs:read")
    logs, files = keyed("runs:read", "outputs:read"), keyed("runs:read", "artifacts:read")
    events = keyed("events:read")
    of_logs = (f"{NATIVE}/logs", f"{JOB}/logs")
    of_files = (
        f"{NATIVE}/artifacts",
        f"{V1}/artifacts/{reference_tenant.ARTIFACT}",
        f"{JOB}/results",
        f"{JOB}/results?format=download",
        f"{V1}/files/f-501",
        f"{V1}/files/f-501/metadata",
    )
    of_events = (f"{V1}/runs/events", f"{V1}/logs", f"{V1}/events")

    assert _statuses(runs, *of_logs, *of_files, *of_events) == {403}
    assert _statuses(runs, NATIVE, JOB, f"{V1}/processruns/{RUN}") == {200}
    assert _statuses(logs, *of_logs) == {200}
    assert _statuses(logs, *of_files, *of_events) == {403}
    assert 403 not in _statuses(files, *of_files)
    assert _statuses(files, *of_logs, *of_events) == {403}
    assert _statuses(events, *of_events) == {200}
    assert _statuses(events, *of_logs, *of_files) == {403}


def test_an_execution_has_log_lines_for_who_may_read_logs(keyed: Keys) -> None:
    places = (f"/api/process-exec/v1/{reference_tenant.RUN}", "/api/process-exec/v1")
    aggregate = '/api/process-exec/v1?_aggregate=[{"$limit":5}]'

    for place in (*places, aggregate):
        assert WORD in keyed("runs:read", "outputs:read").get(place).text
        narrow = keyed("runs:read").get(place)
        assert WORD not in narrow.text
        assert '"phases"' in narrow.text


def test_a_step_has_its_files_for_who_may_read_files(keyed: Keys) -> None:
    address = f"{V1}/steps/{LOAD}/properties"

    def names(caller: FlaskClient) -> list[str]:
        body: Any = caller.get(address).json
        return [each["name"] for each in body]

    assert "orders.csv" in names(keyed("runs:read", "artifacts:read"))
    assert names(keyed("runs:read")) == names(keyed("process_read"))[:-1]
    process = keyed().get(f"{V1}/processes/p-9001/steps").json[0]["id"]
    assert _statuses(keyed("runs:read"), f"{V1}/steps/{process}") == {403}
    assert _statuses(keyed("runs:read", "workflows:read"), f"{V1}/steps/{process}") == {200}


def test_a_workflow_or_schedule_tells_of_its_runs_to_who_may_read_runs(keyed: Keys) -> None:
    def latest(*scopes: str) -> Any:
        body: Any = keyed(*scopes).get(f"{V1}/automations").json
        return body["items"][0]["latestRun"]

    def counts(*scopes: str) -> tuple[int, Any]:
        body: Any = keyed(*scopes).get("/api/pipeline_schedules").json
        (item,) = body["pipeline_schedules"]
        return item["pipeline_runs_count"], item["last_pipeline_run_status"]

    assert latest("workflows:read", "runs:read") is not None
    assert latest("workflows:read") is None
    assert counts("schedules:read", "runs:read") == (1, "failed")
    assert counts("schedules:read") == (0, None)


def test_hosts_and_process_ids_are_shown_to_nobody_but_the_operator(
    keyed: Keys, engine: Engine
) -> None:
    with engine.begin() as connection:
        connection.execute(
            text(
                "INSERT INTO workers (name, host, pid, pool, queues, capacity, active, draining,"
                " started_at)"
                " VALUES ('w1@host-a', 'host-a', 471147114, 'prefork', '{default}', 2, 0, true,"
                " now())"
            )
        )
        connection.execute(
            text(
                "INSERT INTO worker_starts (worker, queues, error, started_at)"
                " VALUES ('w2@host-a', '{default}', 'no module', now())"
            )
        )
    running, pending = (
        f"{V1}/runs/{reference_tenant.RUNS[each]}" for each in ("running", "pending")
    )
    addresses = (
        f"{V1}/workers", f"{V1}/workers?limit=1", f"{V1}/system/status", NATIVE, running,
        f"{NATIVE}/steps", f"{NATIVE}/steps/load", f"{NATIVE}/steps/load/attempts",
        f"{running}/explain", f"{pending}/explain", f"{NATIVE}/events", f"{V1}/runs/events",
        JOB, f"{JOBS}/queue",
        f"/api/{reference_tenant.TENANT}/execution/system/status", f"{V1}/events", f"{V1}/logs",
    )  # fmt: skip

    for caller in (keyed(), keyed(role=Role.VIEWER), keyed("runs", "system", "events")):
        texts = [caller.get(address).text for address in addresses]
        assert not [each for each in texts if re.search(r"host-a\b|471147114", each)]
        assert [each for each in texts if " did not start: no module" in each]
    body: Any = keyed().get(f"{V1}/workers").json
    (worker,) = body["items"]
    step: Any = keyed().get(f"{NATIVE}/steps/load").json
    job: Any = keyed().get(JOB).json
    assert worker["name"].startswith("worker-")
    assert worker["name"] == step["worker"] == job["execution"]["executionNode"]
    assert worker["pid"] == 0
    assert keyed().get(f"{V1}/workers/{worker['name']}").json["host"] == worker["host"]
    assert _statuses(keyed(), f"{V1}/workers/w1@host-a") == {404}
