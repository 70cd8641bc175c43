"""Logs and artifacts of runs over REST."""

from datetime import timedelta
from typing import Any

import pytest
from flask.testing import FlaskClient

from config.settings import Settings
from orchestrator.broker.messages import Outbound
from orchestrator.db.database import Database
from orchestrator.engine.claims import Claim
from orchestrator.models import Run
from orchestrator.outputs import artifacts, storage, writer
from orchestrator.sdk.files import FileSpec
from orchestrator.sdk.recorder import Recorder
from tests.support.factories import a_claim, a_run, messages_in

BYTES = bytes(range(256)) * 2000
NOBODY = "01a201d7-4de9-70d3-85c2-4ae3f02dab80"


@pytest.fixture
def run(database: Database) -> Run:
    """A run of one step."""
    return a_run(database)


@pytest.fixture
def claim(database: Database, sent: list[Outbound], run: Run) -> Claim:
    """The first attempt of its step."""
    made = a_claim(database, messages_in(sent)[0].task_id)
    assert made is not None
    return made


@pytest.fixture
def logged(database: Database, claim: Claim) -> None:
    """Five lines, of which the last is an error."""
    recorder = Recorder()
    for number in range(4):
        recorder.log(20, f"line {number}")
    recorder.log(40, "broken")
    batch = recorder.drain()
    assert batch is not None
    with database.transaction() as session:
        writer.write_output(session, claim.source, batch)


@pytest.fixture
def saved(database: Database, claim: Claim, settings: Settings) -> str:
    """The id of a file of 512,000 bytes."""
    draft = FileSpec(name='Übersicht "x".csv', kind="report", title="All", primary=True, records=9)
    return artifacts.save(
        database,
        storage.store_of(settings),
        claim.source,
        draft,
        BYTES,
        limit=10**7,
        within=timedelta(seconds=5),
    ).id


def of_run(client: FlaskClient, run: Run, what: str, **query: Any) -> Any:
    return client.get(f"/api/v1/runs/{run.id}/{what}", query_string=query)


@pytest.mark.usefixtures("logged")
def test_a_log_comes_in_pages(client: FlaskClient, run: Run) -> None:
    first = of_run(client, run, "logs", limit=3).json
    rest = of_run(client, run, "logs", limit=3, cursor=first["next_cursor"]).json

    texts = [line["text"] for line in [*first["items"], *rest["items"]]]
    assert texts == ["line 0", "line 1", "line 2", "line 3", "broken"]
    assert rest["next_cursor"] is None
    assert first["truncated"] is False
    line = rest["items"][-1]
    assert line | {"time": ""} == {
        "time": "", "level": "error", "step": "s1", "attempt": 1, "text": "broken",
    }  # fmt: skip
    assert len(line["time"]) == len("2026-01-02T03:04:05.123456789Z")


@pytest.mark.usefixtures("logged")
@pytest.mark.parametrize(
    ("query", "texts"),
    [
        ({"level": "warning"}, ["broken"]),
        ({"level": "ERROR", "step": "s1", "attempt": 1}, ["broken"]),
        ({"step": "s2"}, []),
        ({"attempt": 2}, []),
        ({"until": "2020-01-01T00:00:00Z"}, []),
        ({"since": "9999-12-31T23:59:59Z"}, []),
        ({"since": "0001-01-01T00:00:00Z", "tail": 2}, ["line 3", "broken"]),
    ],
)
def test_a_log_is_filtered(
    client: FlaskClient, run: Run, query: dict[str, Any], texts: list[str]
) -> None:
    assert [line["text"] for line in of_run(client, run, "logs", **query).json["items"]] == texts


@pytest.mark.usefixtures("logged")
def test_a_log_is_text_when_asked_for(client: FlaskClient, run: Run) -> None:
    text = of_run(client, run, "logs", format="text")
    accepted = client.get(f"/api/v1/runs/{run.id}/logs", headers={"Accept": "text/plain"})
    last = of_run(client, run, "logs", format="text", tail=1)
    two = of_run(client, run, "logs", format="text", limit=2)

    assert text.content_type == "text/plain; charset=utf-8"
    assert text.text == accepted.text
    assert [line.split(" ", 1)[1] for line in text.text.splitlines()][-1] == "ERROR    s1#1 broken"
    assert len(text.text.splitlines()) == 5
    assert last.text == text.text.splitlines(keepends=True)[-1]
    assert two.text.splitlines() == text.text.splitlines()[:2]
    assert text.headers["Log-Truncated"] == "false"


@pytest.mark.parametrize(
    "query",
    [
        {"level": "loud"}, {"attempt": 0}, {"attempt": "x"}, {"limit": 1001}, {"tail": 0},
        {"tail": 5, "limit": 5}, {"cursor": "nonsense"}, {"format": "xml"}, {"since": "yesterday"},
        {"steps": "s1"}, {"attempt": 2**40},
    ],
    ids=str,
)  # fmt: skip
def test_a_wrong_question_about_a_log_says_what_is_wrong(
    client: FlaskClient, run: Run, query: dict[str, Any]
) -> None:
    answer = of_run(client, run, "logs", **query)

    assert answer.status_code == 422
    assert answer.json["errors"][0]["pointer"].startswith("/query/")


@pytest.mark.parametrize("what", [f"runs/{NOBODY}/logs", f"runs/{NOBODY}/artifacts",
                                  f"artifacts/{NOBODY}", "artifacts/7"])  # fmt: skip
def test_what_is_not_there_is_not_found(client: FlaskClient, what: str) -> None:
    assert client.get(f"/api/v1/{what}").status_code == 404


def test_a_list_of_files_says_what_they_are(client: FlaskClient, run: Run, saved: str) -> None:
    (artifact,) = of_run(client, run, "artifacts").json["items"]

    assert (artifact["id"], artifact["name"], artifact["kind"]) == (
        saved,
        'Übersicht "x".csv',
        "report",
    )
    assert (artifact["size"], artifact["records"], artifact["primary"]) == (len(BYTES), 9, True)
    assert (artifact["media_type"], artifact["title"], artifact["extra"]) == ("text/csv", "All", {})
    assert "address" not in artifact


def test_a_file_downloads_intact_with_its_name_and_type(client: FlaskClient, saved: str) -> None:
    answer = client.get(f"/api/v1/artifacts/{saved}")

    assert answer.status_code == 200
    assert answer.data == BYTES
    assert answer.headers["Content-Type"] == "text/csv"
    assert answer.content_length == len(BYTES)
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Content-Disposition"] == (
        "attachment; filename=\"_bersicht _x_.csv\"; filename*=UTF-8''%C3%9Cbersicht%20%22x%22.csv"
    )


@pytest.mark.parametrize(
    ("header", "start", "end"),
    [("bytes=0-9", 0, 10), ("bytes=511990-", 511990, 512000), ("bytes=-5", 511995, 512000),
     ("bytes=10-9999999", 10, 512000), ("bytes=0-", 0, 512000)],
)  # fmt: skip
def test_a_part_of_a_file_can_be_asked_for(
    client: FlaskClient, saved: str, header: str, start: int, end: int
) -> None:
    answer = client.get(f"/api/v1/artifacts/{saved}", headers={"Range": header})

    assert answer.status_code == 206
    assert answer.data == BYTES[start:end]
    assert answer.headers["Content-Range"] == f"bytes {start}-{end - 1}/512000"


def test_a_part_after_the_end_is_refused_and_nonsense_gets_all(
    client: FlaskClient, saved: str
) -> None:
    beyond = client.get(f"/api/v1/artifacts/{saved}", headers={"Range": "bytes=512000-"})
    assert beyond.status_code == 416
    assert beyond.headers["Content-Range"] == "bytes */512000"
    assert beyond.json["code"] == "requested_range_not_satisfiable"
    for other in ("lines=1-2", "bytes=5-1", "bytes=a-b", "bytes=0-1,5-6"):
        answer = client.get(f"/api/v1/artifacts/{saved}", headers={"Range": other})
        assert (answer.status_code, len(answer.data)) == (200, len(BYTES))


def test_a_file_that_the_reader_has_is_not_sent_again(client: FlaskClient, saved: str) -> None:
    tag = client.get(f"/api/v1/artifacts/{saved}").headers["ETag"]

    same = client.get(f"/api/v1/artifacts/{saved}", headers={"If-None-Match": tag})
    part = {"Range": "bytes=0-1", "If-Range": '"another"'}
    changed = client.get(f"/api/v1/artifacts/{saved}", headers=part)

    assert (same.status_code, same.data) == (304, b"")
    assert (changed.status_code, len(changed.data)) == (200, len(BYTES))


def test_a_head_has_the_headers_alone(client: FlaskClient, saved: str) -> None:
    answer = client.head(f"/api/v1/artifacts/{saved}")

    assert (answer.status_code, answer.data) == (200, b"")
    assert answer.headers["Content-Length"] == "512000"


def test_a_signed_address_needs_no_key_and_no_other_does(
    client: FlaskClient, run: Run, saved: str
) -> None:
    url = of_run(client, run, "artifacts").json["items"][0]["url"]
    client.environ_base.pop("HTTP_AUTHORIZATION")

    assert client.get(url).data == BYTES
    # Not its last character: that has bits which mean nothing.
    forged = url[:-2] + ("A" if url[-2] != "A" else "B") + url[-1]
    assert client.get(forged).status_code == 401
    assert client.get(url.replace(saved, NOBODY)).status_code == 401
    assert client.get(f"/api/v1/artifacts/{saved}?token=").status_code == 401
    assert client.get(f"/api/v1/artifacts/{saved}").status_code == 401
    token = url.partition("?")[2]
    assert client.get(f"/api/v1/runs/{run.id}?{token}").status_code == 401


def test_bytes_that_are_gone_are_a_clear_404(
    client: FlaskClient, saved: str, settings: Settings
) -> None:
    for path in (settings.data_dir / "artifacts").rglob("*"):
        if path.is_file():
            path.unlink()

    answer = client.get(f"/api/v1/artifacts/{saved}")

    assert answer.status_code == 404
    assert "gone" in answer.json["detail"]
