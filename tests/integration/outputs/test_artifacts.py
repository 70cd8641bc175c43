"""Artifacts: bytes in a store, rows beside the run."""

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, event

from orchestrator.broker.messages import Outbound, task_id
from orchestrator.db.database import Database
from orchestrator.db.engine import make_engine
from orchestrator.engine import attempts
from orchestrator.engine.claims import Claim
from orchestrator.engine.outcomes import Failed, Succeeded
from orchestrator.errors import LeaseLost, NotFound, Unavailable
from orchestrator.maintenance import sweeps
from orchestrator.models import Artifact, Run
from orchestrator.outputs import artifacts, storage
from orchestrator.outputs.storage import ArtifactStore, ArtifactTooLarge, StoredArtifact
from orchestrator.sdk.files import FileSpec, SavedFile
from tests.support.factories import a_claim, a_run, messages_in, the_events, the_run

WITHIN = timedelta(seconds=5)
LIMIT = 1024 * 1024


@pytest.fixture(params=["folder", "memory"])
def files(request: pytest.FixtureRequest, tmp_path: Path) -> ArtifactStore:
    """A store: a folder, and one behind a URL."""
    url = str(tmp_path) if request.param == "folder" else f"memory://{tmp_path.name}"
    return storage.open_store(url)


@pytest.fixture
def run(database: Database) -> Run:
    """A run of two steps; the first may be retried."""
    retry = {"attempts": 3, "delay": "1ms"}
    steps = [{"key": "s1", "uses": "noop", "retry": retry}, {"key": "s2", "uses": "noop"}]
    return a_run(database, {"name": "saves", "steps": steps})


@pytest.fixture
def claim(database: Database, sent: list[Outbound], run: Run) -> Claim:
    """The first attempt of its first step."""
    claim = a_claim(database, messages_in(sent)[0].task_id)
    assert claim is not None
    return claim


def save(
    database: Database,
    files: ArtifactStore,
    claim: Claim,
    content: Any = b"abc",
    name: str = "a.csv",
) -> SavedFile:
    spec = FileSpec(name=name, records=3, extra={"accuracy": 0.9})
    return artifacts.save(database, files, claim.source, spec, content, limit=LIMIT, within=WITHIN)


def of_run(database: Database, run: Run, **filters: Any) -> list[Artifact]:
    with database.transaction() as session:
        return list(artifacts.of_run(session, run.tenant_id, run.id, **filters))


def endless(read: list[int]) -> Iterator[bytes]:
    """Two gigabytes, a megabyte at a time; appends the number of each piece to `read`."""
    for number in range(2048):
        read.append(number)
        yield b"\x00" * (1024 * 1024)


def test_a_file_is_kept_with_its_size_hash_and_type(
    database: Database, files: ArtifactStore, run: Run, claim: Claim
) -> None:
    content = bytes(range(256)) * 4000

    saved = save(database, files, claim, content)

    (artifact,) = of_run(database, run)
    assert (artifact.name, artifact.kind, artifact.title, artifact.records) == (
        "a.csv",
        "data",
        "a.csv",
        3,
    )
    assert (artifact.media_type, artifact.extra) == ("text/csv", {"accuracy": 0.9})
    assert (artifact.size, artifact.sha256) == (len(content), hashlib.sha256(content).hexdigest())
    assert (saved.id, saved.size, saved.sha256) == (
        str(artifact.id),
        artifact.size,
        artifact.sha256,
    )
    assert files.read(artifact.address) == content
    with files.open(artifact.address) as file:
        assert b"".join(file.pieces(300_000, 10)) == content[300_000:300_010]
    assert the_events(database, run)[-1] == "step.artifact"


def test_anything_with_bytes_can_be_saved(
    database: Database, files: ArtifactStore, run: Run, claim: Claim, tmp_path: Path
) -> None:
    (tmp_path / "file").write_bytes(b"bytes")
    contents: list[Any] = [
        b"bytes", "bytes", bytearray(b"bytes"), BytesIO(b"bytes"), tmp_path / "file",
        iter([b"by", b"tes"]),
    ]  # fmt: skip

    for number, content in enumerate(contents):
        assert save(database, files, claim, content, f"{number}.bin").size == 5

    assert {each.sha256 for each in of_run(database, run)} == {hashlib.sha256(b"bytes").hexdigest()}


def test_the_same_name_again_replaces_the_file(
    database: Database, files: ArtifactStore, run: Run, claim: Claim
) -> None:
    first = save(database, files, claim, b"old")
    old = of_run(database, run)[0].address
    second = save(database, files, claim, b"new")

    (artifact,) = of_run(database, run)
    assert first.id == second.id
    assert files.read(artifact.address) == b"new"
    with pytest.raises(NotFound):
        files.read(old)


def test_two_gigabytes_end_at_the_limit_and_leave_nothing(
    database: Database, claim: Claim, run: Run, tmp_path: Path
) -> None:
    files, read = storage.open_store(str(tmp_path / "store")), list[int]()

    with pytest.raises(ArtifactTooLarge, match="more than 1,048,576 bytes"):
        save(database, files, claim, endless(read))

    assert len(read) == 2
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    assert of_run(database, run) == []


def test_a_file_known_to_be_too_large_is_not_even_begun(
    database: Database, files: ArtifactStore, claim: Claim, tmp_path: Path
) -> None:
    sparse = tmp_path / "sparse"
    with sparse.open("wb") as file:
        file.truncate(2 * 1024**3)

    with pytest.raises(ArtifactTooLarge):
        save(database, files, claim, sparse)


def test_a_handler_that_breaks_while_it_writes_leaves_nothing(
    database: Database, files: ArtifactStore, run: Run, claim: Claim
) -> None:
    def broken() -> Iterator[bytes]:
        yield b"half"
        raise RuntimeError("the source went away")

    with pytest.raises(RuntimeError):
        save(database, files, claim, broken())

    assert of_run(database, run) == []


def test_an_attempt_that_is_over_saves_nothing(
    database: Database, run: Run, claim: Claim, tmp_path: Path
) -> None:
    files = storage.open_store(str(tmp_path / "late"))
    with database.transaction() as session:
        attempts.record_outcome(session, claim, Succeeded())

    with pytest.raises(LeaseLost):
        save(database, files, claim)

    assert of_run(database, run) == []
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_row_whose_commit_was_in_doubt_when_the_attempt_ended_has_its_file(
    database: Database, files: ArtifactStore, run: Run, claim: Claim, engine: Engine
) -> None:
    url = engine.url.render_as_string(hide_password=False)
    own = Database(make_engine(url, pool_size=1), lambda _: None)
    cut = []

    def cut_once(connection: Connection) -> None:
        if not cut:
            cut.append(connection.connection.dbapi_connection)
            cut[0].close()  # the answer to COMMIT is lost, and meanwhile the attempt is ended
            with database.transaction() as session:
                attempts.end_lost_attempt(session, task_id(claim.step_id, claim.generation), "gone")

    event.listen(own.engine, "commit", cut_once)
    with pytest.raises(LeaseLost):
        save(own, files, claim)
    own.engine.dispose()

    (artifact,) = of_run(database, run)
    assert files.read(artifact.address) == b"abc"


def test_of_several_attempts_the_latest_that_saved_a_name_is_shown(
    database: Database, files: ArtifactStore, run: Run, claim: Claim
) -> None:
    save(database, files, claim, b"first", "both.txt")
    save(database, files, claim, b"only", "once.txt")
    with database.transaction() as session:
        attempts.record_outcome(session, claim, Failed("again", ("E",)))
    sweeps.wake_waiting_steps(database)
    sweeps.admit_waiting(database, 100)
    task_id = the_run(database, run).steps[0].task_id
    assert task_id is not None
    second = a_claim(database, task_id)
    assert second is not None
    save(database, files, second, b"second", "both.txt")

    saved = of_run(database, run)
    assert [(each.name, each.attempt) for each in saved] == [("once.txt", 1), ("both.txt", 2)]
    assert len(of_run(database, run, after=saved[0].number)) == 1


def test_an_attempt_that_a_crash_forgot_saves_nothing_for_the_next_one(
    database: Database, files: ArtifactStore, run: Run, claim: Claim
) -> None:
    forgotten = replace(claim, started_at=claim.started_at - timedelta(seconds=9))
    save(database, files, claim, b"mine")

    with pytest.raises(LeaseLost):
        save(database, files, forgotten, b"late")

    (artifact,) = of_run(database, run)
    assert files.read(artifact.address) == b"mine"


def test_an_attempt_saves_a_thousand_files_and_no_more(
    database: Database, files: ArtifactStore, claim: Claim, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(artifacts, "MAX_ARTIFACTS", 2)
    save(database, files, claim, name="1")
    save(database, files, claim, name="2")

    with pytest.raises(artifacts.TooManyArtifacts):
        save(database, files, claim, name="3")
    save(database, files, claim, b"replaced", name="2")


def test_a_result_too_large_for_its_row_is_read_by_the_step_after_it(
    database: Database, files: ArtifactStore, sent: list[Outbound], run: Run, claim: Claim
) -> None:
    put = artifacts.save_result(database, files, claim.source, '{"n": [1, 2]}', within=WITHIN)
    with database.transaction() as session:
        follows = messages_in(sent)[1].task_id
        attempts.record_outcome(session, claim, Succeeded(artifact=put), follows)

    first = the_run(database, run).steps[0]
    assert (first.state, first.result, first.result_artifact) == ("succeeded", None, put)
    then = a_claim(database, follows)
    assert then is not None
    assert then.spilled == {"s1": put}
    assert artifacts.read_results(database, files, then.spilled) == {"s1": {"n": [1, 2]}}
    (artifact,) = of_run(database, run)
    assert (artifact.kind, artifact.name, artifact.media_type) == (
        "result", "result.json", "application/json",
    )  # fmt: skip


def test_a_store_that_does_not_answer_is_unavailable(
    database: Database, claim: Claim, run: Run, tmp_path: Path
) -> None:
    (tmp_path / "taken").write_text("a file where the folder should be")
    files = storage.open_store(str(tmp_path / "taken"))

    with pytest.raises(Unavailable, match="artifact store"):
        save(database, files, claim)

    assert of_run(database, run) == []


def test_a_store_that_nothing_here_speaks_to_is_refused() -> None:
    with pytest.raises(Unavailable, match="artifact store"):
        storage.open_store("nosuch://bucket")


def test_a_process_of_its_own_reads_where_asyncio_cannot(tmp_path: Path) -> None:
    storage.open_store(str(tmp_path)).write("run/file", [b"0123456789"], LIMIT)

    with storage.open_in_subprocess(str(tmp_path), "run/file") as file:
        assert b"".join(file.pieces(2, 5)) == b"23456"
    with storage.open_in_subprocess(str(tmp_path), "run/file") as file:
        assert file  # closing without reading ends the child process
    with pytest.raises(NotFound), storage.open_in_subprocess(str(tmp_path), "run/other"):
        pass
    with (
        pytest.raises(Unavailable),
        storage.open_in_subprocess("nothing-speaks://this", "run/file"),
    ):
        pass


def test_a_file_is_written_by_another_process(tmp_path: Path) -> None:
    stored = storage.write_in_subprocess(str(tmp_path), "run/input", b"a,b\n", 4)

    assert (tmp_path / "run" / "input").read_bytes() == b"a,b\n"
    assert stored == StoredArtifact(4, hashlib.sha256(b"a,b\n").hexdigest())
    with pytest.raises(ArtifactTooLarge):
        storage.write_in_subprocess(str(tmp_path), "run/input", b"a,b\n", 3)
    with pytest.raises(Unavailable, match="the artifact store"):
        storage.write_in_subprocess("nothing-speaks://this", "run/input", b"x", 9)
