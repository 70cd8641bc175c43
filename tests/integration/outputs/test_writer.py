"""The output of attempts, written in batches."""

import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import Engine, text

from orchestrator import runs
from orchestrator.broker.messages import Outbound
from orchestrator.db.database import Database
from orchestrator.engine import attempts
from orchestrator.engine.claims import Claim
from orchestrator.engine.outcomes import Succeeded
from orchestrator.models import Run
from orchestrator.outputs import logs, summaries, writer
from orchestrator.outputs.logs import LogFilter
from orchestrator.outputs.summaries import RunOutput, StepOutput
from orchestrator.sdk.recorder import Recorder
from orchestrator.sdk.reports import OutputBatch
from tests.support.factories import (
    a_claim,
    a_run,
    a_spec,
    eventually,
    messages_in,
    the_events,
    the_run,
)
from tests.support.statement_recorder import wait_for_locks


@pytest.fixture
def run(database: Database) -> Run:
    """A run of three steps."""
    return a_run(database, a_spec(steps=3))


@pytest.fixture
def claim(database: Database, sent: list[Outbound], run: Run) -> Claim:
    """The first attempt of its first step."""
    claim = a_claim(database, messages_in(sent)[0].task_id)
    assert claim is not None
    return claim


def say(database: Database, claim: Claim, recorder: Recorder, *, last: bool = False) -> OutputBatch:
    batch = recorder.drain(last=last)
    assert batch is not None
    with database.transaction() as session:
        writer.write_output(session, claim.source, batch)
    return batch


def the_log(database: Database, run: Run, **filters: Any) -> list[str]:
    with database.transaction() as session:
        lines = logs.log_lines(session, run.tenant_id, run.id, LogFilter(**filters), limit=1000)
    return [line.text for line in lines]


def shown(database: Database, run: Run) -> RunOutput:
    with database.transaction() as session:
        run = runs.get(session, run.tenant_id, run.id)
        return summaries.summaries_of_runs(session, [run])[run.id]


def of_steps(database: Database, run: Run) -> dict[str, StepOutput]:
    with database.transaction() as session:
        return dict(summaries.summaries_of_steps(session, run))


def test_lines_are_kept_in_order_with_their_nanoseconds(
    database: Database, run: Run, claim: Claim
) -> None:
    recorder = Recorder()
    for number in range(5):
        recorder.log(20, f"line {number}")
    first = say(database, claim, recorder)
    recorder.log(40, "the last")
    say(database, claim, recorder)

    assert the_log(database, run) == [*(f"line {number}" for number in range(5)), "the last"]
    with database.transaction() as session:
        lines = logs.log_lines(session, run.tenant_id, run.id, LogFilter())
    assert [line.time_ns for line in lines][:5] == [line.time_ns for line in first.lines]
    assert {(line.step, line.attempt) for line in lines} == {("s1", 1)}


def test_a_batch_that_is_written_twice_is_there_once(
    database: Database, run: Run, claim: Claim
) -> None:
    recorder = Recorder()
    recorder.log(20, "one")
    batch = say(database, claim, recorder)
    recorder.restore(batch)  # as after a commit in doubt
    recorder.log(20, "two")
    say(database, claim, recorder)

    assert the_log(database, run) == ["one", "two"]


def test_a_batch_whose_commit_is_still_on_its_way_is_there_once(
    database: Database, engine: Engine, run: Run, claim: Claim
) -> None:
    recorder = Recorder()
    recorder.log(20, "one")
    batch = recorder.drain()
    assert batch is not None
    with ThreadPoolExecutor(1) as thread:
        with database.transaction() as session:
            writer.write_output(session, claim.source, batch)
            recorder.restore(batch)  # the connection was cut before Postgres answered
            again = thread.submit(say, database, claim, recorder)
            eventually(lambda: wait_for_locks(engine))
        again.result(10)

    assert the_log(database, run) == ["one"]


def test_what_a_forgotten_attempt_says_does_not_pass_for_what_the_next_one_says(
    database: Database, run: Run, claim: Claim
) -> None:
    forgotten, late = replace(claim, started_at=claim.started_at - timedelta(seconds=9)), Recorder()
    late.log(20, "by an attempt that a crash of Postgres has forgotten")
    late.progress(1, 2, None, None)
    batch = say(database, forgotten, late)
    with database.transaction() as session:
        assert writer.try_record_progress(session, forgotten.source, batch)
    recorder = Recorder()
    recorder.log(20, "by the one that has its number now")
    say(database, claim, recorder)

    assert the_log(database, run) == ["by the one that has its number now"]
    assert "step.progress" not in the_events(database, run)


def test_a_log_is_filtered_by_level_step_attempt_and_time(
    database: Database, run: Run, claim: Claim
) -> None:
    recorder = Recorder()
    recorder.log(10, "debug")
    recorder.log(40, "error")
    lines = say(database, claim, recorder).lines
    now = datetime.now(UTC)

    assert the_log(database, run, level=30) == ["error"]
    assert the_log(database, run, step="s1", attempt=1) == ["debug", "error"]
    assert the_log(database, run, step="s2") == []
    assert the_log(database, run, attempt=2) == []
    assert the_log(database, run, until=now - timedelta(hours=1)) == []
    assert the_log(database, run, since=now - timedelta(hours=1)) == ["debug", "error"]
    assert the_log(database, run, since=datetime.max.replace(tzinfo=UTC)) == []
    with database.transaction() as session:
        tail = logs.log_tail(session, run.tenant_id, run.id, LogFilter(), 1)
        position = (lines[0].time_ns, 2**62)
        rest = logs.log_lines(session, run.tenant_id, run.id, LogFilter(), after=position)
    assert [line.text for line in tail] == [line.text for line in rest] == ["error"]


def test_a_flood_keeps_its_beginning_and_its_end_and_says_what_is_missing(
    database: Database, run: Run, claim: Claim
) -> None:
    recorder = Recorder(lines=10)
    for number in range(1000):
        recorder.log(20, str(number))
    say(database, claim, recorder, last=True)

    log = the_log(database, run)
    assert log[:10] == [str(number) for number in range(10)]
    assert log[10].startswith("… 890 lines were left out here")
    assert log[11:] == [str(number) for number in range(900, 1000)]
    with database.transaction() as session:
        assert logs.is_truncated(session, run.tenant_id, run.id, LogFilter())
        assert logs.is_truncated(session, run.tenant_id, run.id, LogFilter(step="s1"))
        assert not logs.is_truncated(session, run.tenant_id, run.id, LogFilter(step="s2"))


def test_whatever_a_handler_says_can_be_stored(database: Database, run: Run, claim: Claim) -> None:
    recorder = Recorder()
    wild = "NUL \x00 surrogate \ud800 emoji 😀 quote ' \" backslash \\ percent %s :name"
    recorder.log(20, wild)
    recorder.warn(wild, wild)
    recorder.metric(wild, 10**30)
    recorder.data(curves={wild: [wild]})
    recorder.progress(1, 3, wild, wild)
    say(database, claim, recorder)

    (line,) = the_log(database, run)
    assert line == "NUL � surrogate ? emoji 😀 quote ' \" backslash \\ percent %s :name"
    assert shown(database, run).warnings == [{"type": line, "message": line, "count": 1}]


def test_writing_waits_for_no_lock_of_the_run(database: Database, run: Run, claim: Claim) -> None:
    recorder = Recorder()
    recorder.progress(1, 2, "reading", None)
    with database.transaction() as holder:
        holder.execute(text("SELECT FROM runs WHERE id = :id FOR UPDATE"), {"id": run.id})
        began = time.monotonic()
        batch = say(database, claim, recorder)
        with database.transaction() as session:
            is_recorded = writer.try_record_progress(session, claim.source, batch)
    assert time.monotonic() - began < 5
    assert not is_recorded

    with database.transaction() as session:
        assert writer.try_record_progress(session, claim.source, batch)
    assert the_events(database, run)[-1] == "step.progress"


def test_an_attempt_that_has_ended_adds_nothing_to_the_history(
    database: Database, run: Run, claim: Claim
) -> None:
    recorder = Recorder()
    recorder.progress(1, 2, None, None)
    batch = say(database, claim, recorder)
    with database.transaction() as session:
        attempts.record_outcome(session, claim, Succeeded())
    before = the_events(database, run)

    with database.transaction() as session:
        assert writer.try_record_progress(session, claim.source, batch)

    assert the_events(database, run) == before


def test_a_run_that_is_gone_keeps_nothing(database: Database, run: Run, claim: Claim) -> None:
    with database.transaction() as session:
        session.execute(text("DELETE FROM runs WHERE id = :id"), {"id": run.id})
    recorder = Recorder()
    recorder.log(20, "too late")
    say(database, claim, recorder)

    with database.transaction() as session:
        assert session.scalar(text("SELECT count(*) FROM logs")) == 0
        assert session.scalar(text("SELECT count(*) FROM outputs")) == 0


def test_a_run_shows_what_its_steps_said_and_how_far_it_is(
    database: Database, run: Run, claim: Claim
) -> None:
    assert shown(database, run).percent == 0
    assert shown(database, run).stage == "s1"

    recorder = Recorder()
    recorder.progress(1, 2, "reading", "half of it")
    recorder.metric("rows", 7)
    recorder.warn("odd", "quality")
    recorder.warn("odd", "quality")
    recorder.data(series={"2021-07-01": ["a", "b"]})
    say(database, claim, recorder)

    now = shown(database, run)
    assert (now.percent, now.stage, now.message) == (16, "reading", "half of it")
    assert now.metrics == {"rows": 7}
    assert now.warnings == [{"type": "quality", "message": "odd", "count": 2}]
    assert now.data == {"series": {"2021-07-01": ["a", "b"]}}
    assert of_steps(database, run)["s1"].percent == 50
    assert of_steps(database, run)["s2"] == StepOutput()


def test_what_an_attempt_took_is_kept_with_it_and_summed(
    database: Database, sent: list[Outbound], run: Run, claim: Claim
) -> None:
    with database.transaction() as session:
        attempts.record_outcome(
            session,
            claim,
            Succeeded(),
            messages_in(sent)[1].task_id,
            usage={"cpu_seconds": 0.5, "peak_memory_bytes": 10, "read_bytes": 3},
            warnings=3,
        )
    second = a_claim(database, messages_in(sent)[1].task_id)
    assert second is not None
    with database.transaction() as session:
        usage = {"cpu_seconds": 1, "peak_memory_bytes": 30, "read_bytes": 4}
        attempts.record_outcome(session, second, Succeeded(), usage=usage)

    assert shown(database, run).usage == {
        "cpu_seconds": 1.5,
        "peak_memory_bytes": 30,
        "read_bytes": 7,
    }
    assert of_steps(database, run)["s1"].usage == {
        "cpu_seconds": 0.5,
        "peak_memory_bytes": 10,
        "read_bytes": 3,
    }
    ended = the_run(database, run)
    assert (ended.warnings, [step.warnings for step in ended.steps]) == (3, [3, 0, 0])


def test_the_end_is_estimated_by_past_runs_else_by_the_rate(
    database: Database, run: Run, claim: Claim
) -> None:
    assert shown(database, run).eta is None
    recorder = Recorder()
    recorder.progress(1, 4, None, None)
    say(database, claim, recorder)
    by_rate = shown(database, run).eta
    with database.transaction() as session:
        for step in ("s1", "s2", "s3"):
            session.execute(
                text(
                    "INSERT INTO estimates (workflow_id, step, tenant_id, seconds, samples)"
                    " VALUES (:workflow, :step, :tenant, 100, 5)"
                ),
                {"workflow": run.workflow_id, "step": step, "tenant": run.tenant_id},
            )

    by_history = shown(database, run).eta

    assert by_rate is not None
    assert by_history is not None
    left = (by_history - datetime.now(UTC)).total_seconds()
    assert 250 < left <= 300


def test_a_page_of_runs_costs_as_many_statements_as_one_run(
    database: Database, run: Run, claim: Claim
) -> None:
    more = [a_run(database) for _ in range(5)]
    with database.transaction() as session:
        page = [runs.get(session, each.tenant_id, each.id) for each in (run, *more)]
        assert set(summaries.summaries_of_runs(session, page)) == {each.id for each in page}
        assert summaries.summaries_of_runs(session, []) == {}


def test_a_step_that_says_nothing_costs_no_row(database: Database, run: Run, claim: Claim) -> None:
    assert Recorder().drain(last=True) is None
    with database.transaction() as session:
        attempts.record_outcome(session, claim, Succeeded())

    with database.transaction() as session:
        assert session.scalar(text("SELECT count(*) FROM outputs")) == 0


def test_many_threads_lose_no_line(database: Database, run: Run, claim: Claim) -> None:
    recorder = Recorder()
    threads = [
        threading.Thread(target=lambda: [recorder.log(20, json.dumps(n)) for n in range(200)])
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        if (batch := recorder.drain()) is not None:
            with database.transaction() as session:
                writer.write_output(session, claim.source, batch)
    recorder.log(20, "end")
    say(database, claim, recorder)

    assert len(the_log(database, run)) == 801
