"""The thread that writes the output of handlers, against real Postgres."""

import time
from collections.abc import Iterator

import pytest
from sqlalchemy import Engine, event, text

from orchestrator.broker.messages import Outbound
from orchestrator.db.database import Database
from orchestrator.db.engine import make_engine
from orchestrator.engine.claims import Claim
from orchestrator.models import Run
from orchestrator.outputs import logs
from orchestrator.outputs.logs import LogFilter
from orchestrator.sdk.files import Content, FileSpec, SavedFile
from tests.conftest import Services
from tests.support.factories import a_claim, a_run, eventually, messages_in, the_events
from workers.isolation.output_writer import AttemptOutput, OutputWriter


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


def an_output(database: Database, claim: Claim) -> AttemptOutput:
    return OutputWriter(database, 10_000).open(claim.source, "task", _keep)


def _keep(draft: FileSpec, _: Content) -> SavedFile:
    return SavedFile(name=draft.name, size=0, sha256="")


def the_log(database: Database, run: Run) -> list[str]:
    with database.transaction() as session:
        lines = logs.log_lines(session, run.tenant_id, run.id, LogFilter(), limit=1000)
    return [line.text for line in lines]


@pytest.fixture
def commits(engine: Engine) -> Iterator[list[float]]:
    """When each transaction of the tests ended."""
    times: list[float] = []

    def append(_: object) -> None:
        times.append(time.monotonic())

    event.listen(engine, "commit", append)
    yield times
    event.remove(engine, "commit", append)


def test_first_output_is_written_soon_and_a_stream_of_it_once_a_second(
    database: Database, run: Run, claim: Claim, commits: list[float]
) -> None:
    output = an_output(database, claim)
    commits.clear()
    end = time.monotonic() + 2.5
    while time.monotonic() < end:
        output.recorder.log(20, "again")
        output.recorder.progress(1, 2, None, None)
    output.end()

    assert 2 <= len(commits) <= 4
    assert the_log(database, run)


def test_an_attempt_without_output_writes_nothing(
    database: Database, claim: Claim, commits: list[float]
) -> None:
    output = an_output(database, claim)
    commits.clear()

    assert output.end() == (None, False)
    assert not output.flush()
    assert commits == []


def test_output_is_retried_until_postgres_is_back(
    database: Database, services: Services, run: Run, claim: Claim
) -> None:
    away = Database(make_engine(f"{services.database_url}_away", pool_size=1), lambda _: None)
    output_writer = OutputWriter(away, 10_000)
    output = output_writer.open(claim.source, "task", _keep)
    output.recorder.log(20, "logged while it was away")
    assert output.flush()
    assert output.recorder.lines

    output_writer.database = output._database = database

    assert eventually(lambda: the_log(database, run)) == ["logged while it was away"]
    assert output.end() == (None, False)


def test_a_progress_event_waits_for_the_lock_of_its_run(
    database: Database, run: Run, claim: Claim
) -> None:
    output = an_output(database, claim)
    with database.transaction() as holder:
        holder.execute(text("SELECT FROM runs WHERE id = :id FOR UPDATE"), {"id": run.id})
        output.recorder.progress(1, 4, "reading", None)
        assert output.flush()  # the event is still to be written
    assert not output.flush()
    output.recorder.log(20, "the same progress is no news")
    assert not output.flush()

    assert the_events(database, run).count("step.progress") == 1
