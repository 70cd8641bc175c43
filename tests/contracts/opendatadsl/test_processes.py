"""Processes, and the old prefix."""

from flask.testing import FlaskClient

from orchestrator.db.database import Database
from tests.contracts.adapters.opendatadsl import refused
from tests.support.factories import a_run, a_spec


def test_processes_can_be_looked_at(client: FlaskClient, database: Database) -> None:
    for steps in (1, 2):
        a_run(database, a_spec("P", steps=steps, service="ETL", tags=["nightly"]))
    a_run(database, a_spec("A"))

    listed = client.get("/api/process/v1/private?_limit=1&_skip=1")

    assert [each["_id"] for each in listed.json] == ["P"]
    assert listed.headers["x-total-count"] == "2"
    assert listed.json[0]["tags"] == ["nightly"]
    assert [each["_version"] for each in client.get("/api/process/v1/P/*").json] == [2, 1]
    assert client.get("/api/process/v1/private/P/1").json["_version"] == 1
    assert client.get("/service/process/v1/P").json["_version"] == 2
    for address in ("X", "P/3", "P/0", "P/PROD", "P/" + "9" * 30, "X/*", "public/P"):
        assert refused(client.get(f"/api/process/v1/{address}")) == 404, address
    assert client.get("/api/process/v1/public").json == []


def test_the_old_prefix_still_works(client: FlaskClient, database: Database) -> None:
    run = a_run(database)

    assert client.get(f"/service/process-exec/v1/{run.id}").json["_id"] == str(run.id)
    assert client.get("/service/process-execution/v1").status_code == 404
