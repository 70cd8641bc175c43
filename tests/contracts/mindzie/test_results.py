"""Results and logs."""

import io
import zipfile
from datetime import timedelta
from typing import Any

import pytest
from flask.testing import FlaskClient

from config.settings import Settings
from orchestrator.db.database import Database
from orchestrator.engine.claims import Claim
from orchestrator.engine.outcomes import Succeeded
from orchestrator.outputs import artifacts, storage, writer
from orchestrator.sdk.files import FileSpec
from orchestrator.sdk.recorder import Recorder
from tests.contracts.adapters.mindzie import body_of
from tests.contracts.mindzie.helpers import refused
from tests.integration.api.v1.test_run_actions import _claim, _record
from tests.support.factories import a_run, a_spec, the_run


def leave(database: Database, settings: Settings, claim: Claim, **files: bytes) -> None:
    """Save files of a step; one named `primary…` is primary."""
    for name, content in files.items():
        draft = FileSpec(name=f"{name}.csv", kind="data", primary=name.startswith("primary"))
        store, within = storage.store_of(settings), timedelta(seconds=5)
        artifacts.save(database, store, claim.source, draft, content, limit=10**6, within=within)


def finish(database: Database, run_id: str, claim: Claim) -> None:
    _record(database, claim, Succeeded())
    _record(database, _claim(database, run_id, "s2"), Succeeded())


def test_what_a_cancelled_job_left_is_shown_unless_it_was_not_to_be_kept(
    client: FlaskClient, jobs: str, database: Database, settings: Settings
) -> None:
    for kept in (True, False):
        run = a_run(database, a_spec(steps=2))
        claim = _claim(database, run.id, "s1")
        leave(database, settings, claim, half=b"1")
        _record(database, claim, Succeeded())

        body = body_of(client.delete(f"{jobs}/job/{run.id}", json={"preservePartialResults": kept}))

        assert body["partialResultsPreserved"] is kept
        assert the_run(database, run).state == "cancelled"
        shown = body_of(client.get(f"{jobs}/job/{run.id}/results"))["results"]
        assert shown["primaryOutput"] is None
        assert [each["title"] for each in shown["additionalOutputs"]] == ["half.csv"] * kept


@pytest.mark.row("mindzie GET results: downloadUrl, format=download")
def test_outputs_are_downloaded_with_the_key_or_at_their_signed_address(
    client: FlaskClient, jobs: str, database: Database, settings: Settings
) -> None:
    run = a_run(database, a_spec(steps=2))
    claim = _claim(database, run.id, "s1")
    leave(database, settings, claim, other=b"2", primary=b"1")
    finish(database, str(run.id), claim)
    address = f"{jobs}/job/{run.id}/results"

    results = body_of(client.get(address))["results"]
    url = results["primaryOutput"]["downloadUrl"]
    anyone = client.application.test_client()

    assert url.startswith("http://localhost/")
    assert (anyone.get(url).data, client.get(url.partition("?")[0]).data) == (b"1", b"1")
    assert [each["title"] for each in results["additionalOutputs"]] == ["other.csv"]
    whole = client.get(f"{address}?format=download")
    assert whole.data == b"1"
    assert 'filename="primary.csv"' in whole.headers["Content-Disposition"]
    status, _ = refused(client.get(f"{address}?format=download&outputType=models"))
    assert status == 404


@pytest.mark.row("mindzie GET results: primaryOutput.downloadUrl of every completed job")
def test_a_completed_job_without_any_file_has_its_numbers_as_output(
    client: FlaskClient, jobs: str, database: Database
) -> None:
    run = a_run(database, a_spec(steps=2))
    claim = _claim(database, run.id, "s1")
    finish(database, str(run.id), claim)
    address = f"{jobs}/job/{run.id}/results"

    body = body_of(client.get(address))

    output = body["results"]["primaryOutput"]
    assert (output["type"], output["title"], output["format"]) == (
        "ProcessMiningReport", "work", "json",
    )  # fmt: skip
    assert body["results"]["additionalOutputs"] == []
    report = client.get(output["downloadUrl"])
    assert f'filename="{run.id}.json"' in report.headers["Content-Disposition"]
    assert output["size"] == f"{len(report.data)} B"
    assert report.json["summary"] == body["summary"]
    assert report.json["qualityMetrics"]["processingErrors"] == []
    plain = body_of(client.get(f"{address}?includeArtifacts=false"))["results"]["primaryOutput"]
    assert plain == {name: output[name] for name in ("type", "title", "format", "size")}
    other = body_of(client.get(f"{address}?outputType=models"))["results"]
    assert other["primaryOutput"] is None
    assert refused(client.get(f"{address}?format=download&outputType=models"))[0] == 404


def test_several_primary_outputs_are_downloaded_as_one_archive(
    client: FlaskClient, jobs: str, database: Database, settings: Settings
) -> None:
    run = a_run(database, a_spec(steps=2))
    claim = _claim(database, run.id, "s1")
    leave(database, settings, claim, primary_1=b"1" * 300_000, primary_2=b"2", other=b"3")
    finish(database, str(run.id), claim)

    answer = client.get(f"{jobs}/job/{run.id}/results?format=download")

    assert answer.mimetype == "application/zip"
    assert f'filename="{run.id}.zip"' in answer.headers["Content-Disposition"]
    with zipfile.ZipFile(io.BytesIO(answer.data)) as archive:
        assert archive.testzip() is None
        read = {name: archive.read(name) for name in archive.namelist()}
    assert read == {"primary_1.csv": b"1" * 300_000, "primary_2.csv": b"2"}


def test_logs_are_filtered_by_level_and_time(
    client: FlaskClient, jobs: str, database: Database
) -> None:
    run = a_run(database)
    claim, recorder = _claim(database, run.id, "s1"), Recorder()
    for level in (10, 20, 30, 40, 50):
        recorder.log(level, f"level {level}")
    batch = recorder.drain()
    assert batch is not None
    with database.transaction() as session:
        writer.write_output(session, claim.source, batch)

    def log(**query: Any) -> list[str]:
        entries = body_of(client.get(f"{jobs}/job/{run.id}/logs", query_string=query))["logs"]
        return [each["level"] for each in entries]

    assert log() == ["INFO", "WARN", "ERROR", "ERROR"]
    assert log(level="debug", limit=2) == ["DEBUG", "INFO"]
    assert log(level="ERROR", limit=99_999) == ["ERROR", "ERROR"]
    assert log(fromTime="2099-01-01") == log(toTime="2020-01-01T00:00:00") == []
    raw = client.get(f"{jobs}/job/{run.id}/logs?format=raw&limit=1")
    assert raw.mimetype == "text/plain"
    assert raw.text.endswith(" INFO  s1: level 20\n")
