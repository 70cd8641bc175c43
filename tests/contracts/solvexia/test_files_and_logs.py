"""Files that steps left, and logs."""

import io
from datetime import timedelta
from uuid import UUID

import pytest
from flask.testing import FlaskClient
from sqlalchemy import Engine, text
from werkzeug.test import TestResponse

from orchestrator.broker.messages import Outbound
from orchestrator.db.database import Database
from orchestrator.engine.outcomes import Failed
from orchestrator.outputs import artifacts
from orchestrator.outputs.storage import store_of
from orchestrator.sdk.files import FileSpec
from tests.contracts.adapters.solvexia import RUNS
from tests.contracts.solvexia.helpers import (
    DAY,
    V1,
    created,
    finish,
    properties,
    refused,
    set_property,
    steps_of,
)
from tests.support.factories import a_claim, a_run, messages_in


def _file(client: FlaskClient, database: Database, sent: list[Outbound]) -> tuple[str, str]:
    """The ids of a step and of the file that it left."""
    run = a_run(database)
    claim = a_claim(database, messages_in(sent)[-1].task_id)
    assert claim is not None
    saved = artifacts.save(
        database,
        store_of(client.application.extensions["orchestrator"].settings),
        claim.source,
        FileSpec(name="Sales Q1.csv"),
        b"a,b\n1,2\n",
        limit=1000,
        within=timedelta(seconds=5),
    )
    with database.transaction() as session:
        number = artifacts.get(session, run.tenant_id, UUID(saved.id)).number
    return steps_of(client, f"pr-{run.number}")[0], f"f-{number}"


@pytest.mark.row("`GET files/{id}`, `…/metadata`")
def test_a_file_is_downloaded(
    client: FlaskClient, database: Database, sent: list[Outbound]
) -> None:
    step, file = _file(client, database, sent)
    path = f"{V1}/files/{file}"
    (left,) = client.get(f"{V1}/steps/{step}/properties").json
    whole, part = client.get(path), client.get(path, headers={"Range": "bytes=4-"})

    assert (left["name"], left["file"]) == ("Sales Q1.csv", file)
    assert (left["dataType"], left["informationFlowType"]) == ("File", "OUTPUT")
    assert client.get(f"{V1}/steps/{step}/properties/{left['id']}").json == left
    assert (whole.status_code, whole.data, part.data) == (200, b"a,b\n1,2\n", b"1,2\n")
    assert 'filename="Sales Q1.csv"' in whole.headers["Content-Disposition"]
    assert client.get(f"{path}/metadata").json == {
        "id": file,
        "name": "Sales Q1.csv",
        "sizeInBytes": 8,
        "fileExtension": "csv",
        "url": f"http://localhost{path}",
    }
    refused(set_property(client, step, left, "x"), 400, "cannot be set")
    refused(client.get(path, headers={"Range": "bytes=99-"}), 400)
    upload = client.post(path, data={"file": (io.BytesIO(b"x"), "x.csv")})
    refused(upload, 400, f"a step left the file {file}")


@pytest.mark.row("`POST files/{id}`: the part `file` becomes the value of the step's property")
def test_a_file_is_uploaded_before_the_run_starts(client: FlaskClient) -> None:
    made = created(client, DAY)
    step = steps_of(client, made["id"])[0]
    before = properties(client, step)["source"]
    path = f"{V1}/files/{before['file']}"

    refused(client.get(path), 404, before["file"])
    assert set_property(client, step, before, None).json["file"] == before["file"]
    back = client.post(f"{V1}/steps/{step}/properties/{before['id']}", json=before)
    assert back.json == before
    first = _upload(client, path, b"a,b\n1,2\n", "Sales Q1.csv")
    after = properties(client, step)["source"]

    assert first.status_code == 200, first.json
    assert (first.json["name"], first.json["sizeInBytes"]) == ("Sales Q1.csv", 8)
    assert first.json["fileExtension"] == "csv"
    assert (after["dataType"], after["informationFlowType"]) == ("File", "INPUT")
    assert after["file"] == first.json["id"]
    assert "Sales Q1.csv" not in properties(client, step)  # which would be an output
    for each in (path, f"{V1}/files/{after['file']}"):
        assert client.get(each).data == b"a,b\n1,2\n"
        assert client.get(f"{each}/metadata").json == first.json

    again = _upload(client, path, b"c\n", "Sales Q1.csv")
    other = _upload(client, f"{V1}/files/{again.json['id']}", b"d\n", "Sales Q2.csv")
    assert client.get(path).data == b"d\n"
    assert properties(client, step)["source"]["file"] == other.json["id"]
    set_property(client, step, properties(client, step)["day"], "2026-04-01")
    assert client.post(f"{RUNS}/{made['id']}/start").json["status"] == "Scheduled"
    refused(_upload(client, path, b"e", "e.csv"), 400, "too late to upload")
    run_id = client.get("/api/v1/runs").json["items"][0]["id"]
    assert client.get(f"/api/v1/runs/{run_id}").json["params"]["source"] == other.json["id"]


def _upload(client: FlaskClient, path: str, content: bytes, name: str) -> TestResponse:
    return client.post(path, data={"file": (io.BytesIO(content), name)})


def test_a_wrong_upload_is_refused(client: FlaskClient) -> None:
    step, other, _ = steps_of(client, created(client, DAY)["id"])
    source = properties(client, step)["source"]["file"]
    number, path = int(source.removeprefix("f-")), f"{V1}/files/{source}"

    refused(client.post(path), 400, "no file in the body")
    refused(client.post(path, json={"file": "x"}), 400, "multipart/form-data")
    refused(client.post(path, data={"other": (io.BytesIO(b"x"), "x.csv")}), 400, "no file")
    refused(client.post(path, data={"file": "text"}), 400, "no file in the body")
    refused(_upload(client, path, b"x", "a/b.csv"), 400, "no folders")
    of_other = number + (int(other.removeprefix("ds-")) - int(step.removeprefix("ds-"))) * 1000
    for wrong in (
        number - 1,
        number + 1,
        of_other,
        number + 10_000_000,
        4_999_999_999_999_999,
        10**18,
    ):
        refused(_upload(client, f"{V1}/files/f-{wrong}", b"x", "x.csv"), 404, f"f-{wrong}")
        refused(client.get(f"{V1}/files/f-{wrong}"), 404, f"f-{wrong}")


_MORE = """
    INSERT INTO events (tenant_id, run_id, seq, type, data, occurred_at)
    SELECT tenant_id, id, 100 + n, 'run.started', '{}', now() + n * interval '1 millisecond'
    FROM runs, generate_series(1, 58) AS n WHERE id = :run_id
"""


def test_logs_are_sentences_the_latest_first(
    client: FlaskClient, database: Database, sent: list[Outbound]
) -> None:
    run = a_run(database, submitted_by="acme.ana.ruiz")
    finish(database, sent, Failed("Could not reach the ledger database", ("E",)))
    other = a_run(database)
    events = client.get(f"{V1}/logs").json
    mine = [each for each in events if f"pr-{run.number} " in each["message"]]
    step = steps_of(client, f"pr-{run.number}")[0]

    assert events[0]["message"].startswith(f"Process run pr-{other.number} (work) was ")
    assert {each["userName"] for each in mine} == {"acme.ana.ruiz"}
    assert [each["message"] for each in mine] == [
        f"Process run pr-{run.number} (work) failed: Could not reach the ledger database",
        f"Step {step} (s1) of process run pr-{run.number} (work) failed: Could not reach the"
        " ledger database",
        f"Step {step} (s1) of process run pr-{run.number} (work) started",
        f"Process run pr-{run.number} (work) started",
        f"Process run pr-{run.number} (work) was scheduled",
        f"Process run pr-{run.number} (work) was created",
    ]
    assert all(isinstance(each["id"], str) for each in events)


@pytest.mark.row("`GET logs`")
def test_logs_are_the_latest_50_or_those_of_a_span(
    client: FlaskClient, database: Database, engine: Engine
) -> None:
    run = a_run(database)
    with engine.begin() as connection:
        connection.execute(text(_MORE), {"run_id": run.id})
    newest = client.get(f"{V1}/logs").json
    moment = newest[10]["timeStamp"]

    def ids(**query: str) -> list[str]:
        return [each["id"] for each in client.get(f"{V1}/logs", query_string=query).json]

    assert len(newest) == 50
    known = [each["id"] for each in newest]
    assert ids(startDate=moment) == known[:11]
    assert ids(endDate=moment)[:40] == known[10:]
    assert len(ids(endDate=moment)) == 50
    assert ids(startDate=newest[12]["timeStamp"], endDate=moment) == known[10:13]
    assert len(ids(startDate="2000-01-01")) == 60
    assert ids(endDate="2000-01-01") == ids(startDate="2100-01-01") == []
