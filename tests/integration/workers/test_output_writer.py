"""The thread that writes what handlers say, against real Postgres."""

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
from workers.output_writer import AttemptOutput, OutputWriter


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


def a_report(database: Database, claim: Claim) -> AttemptOutput:
    return OutputWriter(database, 10_000).open(claim.source, _keep)


def _keep(draft: FileSpec, _: Content) -> SavedFile:
    return SavedFile(name=draft.name, size=0, sha256="")


def the_log(database: Database, run: Run) -> list[str]:
    with database.transaction() as session:
        found = logs.log_lines(session, run.tenant_id, run.id, LogFilter(), limit=1000)
    return [line.text for line in found]


@pytest.fixture
def commits(engine: Engine) -> Iterator[list[float]]:
    """When each transaction of the tests ended."""
    seen: list[float] = []

    def note(_: object) -> None:
        seen.append(time.monotonic())

    event.listen(engine, "commit", note)
    yield seen
    event.remove(engine, "commit", note)


def test_a_first_word_is_written_soon_and_a_stream_of_them_once_a_second(
    database: Database, run: Run, claim: Claim, commits: list[float]
) -> None:
    report = a_report(database, claim)
    commits.clear()
    end = time.monotonic() + 2.5
    while time.monotonic() < end:
        report.recorder.log(20, "again")
        report.recorder.progress(1, 2, None, None)
    report.end()

    assert 2 <= len(commits) <= 4
    assert the_log(database, run)


def test_a_report_that_has_said_nothing_writes_nothing(
    database: Database, claim: Claim, commits: list[float]
) -> None:
    report = a_report(database, claim)
    commits.clear()

    assert report.end() == (None, False)
    assert not report.flush()
    assert commits == []


def test_what_cannot_be_written_waits_until_it_can(
    database: Database, services: Services, run: Run, claim: Claim
) -> None:
    away = Database(make_engine(f"{services.database_url}_away", pool_size=1), lambda _: None)
    reporter = OutputWriter(away, 10_000)
    report = reporter.open(claim.source, _keep)
    report.recorder.log(20, "said while it was away")
    assert report.flush()
    assert report.recorder.lines

    reporter.database = report._database = database

    assert eventually(lambda: the_log(database, run)) == ["said while it was away"]
    assert report.end() == (None, False)


def test_progress_is_history_once_the_run_is_free(
    database: Database, run: Run, claim: Claim
) -> None:
    report = a_report(database, claim)
    with database.transaction() as holder:
        holder.execute(text("SELECT FROM runs WHERE id = :id FOR UPDATE"), {"id": run.id})
        report.recorder.progress(1, 4, "reading", None)
        assert report.flush()  # something is left: the event
    assert not report.flush()
    report.recorder.log(20, "the same progress is no news")
    assert not report.flush()

    assert the_events(database, run).count("step.progress") == 1
