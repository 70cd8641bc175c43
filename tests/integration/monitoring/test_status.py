"""Throughput, estimates, the status of the system, and the registry of workers."""

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import Engine, text

from orchestrator.db.database import Database
from orchestrator.errors import Conflict, NotFound
from orchestrator.maintenance import sweeps
from orchestrator.models import Run
from orchestrator.monitoring import status as monitoring_status
from orchestrator.monitoring import throughput, workers
from orchestrator.monitoring.status import SystemStatus, WaitEstimate
from orchestrator.monitoring.workers import WorkerReport
from tests.support.factories import a_run, a_spec, a_tenant

STARTED = datetime(2026, 1, 1, tzinfo=UTC)
HOST = {
    "cpus": 4, "cpu_percent": 50.0, "load": 1.0, "memory_total": 8, "memory_used": 3,
    "disk_total": 100, "disk_free": 40,
}  # fmt: skip


def a_report(name: str = "w1@here", **fields: Any) -> WorkerReport:
    """The report of an idle worker."""
    defaults = {
        "host": "here", "pid": 7, "pool": "prefork", "queues": ["default"], "capacity": 2,
        "active": 0, "handlers": [], "draining": False, "usage": HOST,
        "versions": {"python": "3.11"}, "started_at": STARTED,
    }  # fmt: skip
    return WorkerReport(name=name, **defaults | fields)


def say(database: Database, *reports: WorkerReport) -> None:
    """Record reports of workers."""
    with database.transaction() as session:
        for each in reports:
            workers.record_report(session, each)


def _change(engine: Engine, sql: str, **values: Any) -> None:
    with engine.begin() as connection:
        connection.execute(text(sql), values)


def _rows(engine: Engine, sql: str) -> list[tuple[Any, ...]]:
    with engine.connect() as connection:
        return [tuple(row) for row in connection.execute(text(sql))]


def _end(engine: Engine, runs: Iterable[Run], ago: str, state: str = "succeeded") -> None:
    """Set the times of runs: they waited 2 s, worked 10 s, and ended so long ago."""
    times = """
        UPDATE runs SET state = :state, finished_at = now() - CAST(:ago AS interval),
            started_at = now() - CAST(:ago AS interval) - interval '10 s', run_at = NULL,
            created_at = now() - CAST(:ago AS interval) - interval '12 s'
        WHERE id = ANY(:ids)
    """
    _change(engine, times, ids=[run.id for run in runs], ago=ago, state=state)


def _status(database: Database) -> SystemStatus:
    with database.transaction() as session:
        return monitoring_status.system_status(
            session, a_tenant(session), workers.real_name, broker_answers=True
        )


def test_a_minute_is_counted_once_it_is_well_over(database: Database, engine: Engine) -> None:
    over, fresh = a_run(database, window=0), a_run(database, window=0)
    _end(engine, [over], "4 min")
    _end(engine, [fresh], "1 min", state="failed")

    assert sweeps.roll_up(database) == 1
    assert sweeps.roll_up(database) == 0

    statement = "SELECT workflow_id, queue, state, runs, waited, worked FROM throughput"
    assert _rows(engine, statement) == [(over.workflow_id, "default", "succeeded", 1, 2.0, 10.0)]
    _end(engine, [fresh], "5 min", state="failed")
    assert sweeps.roll_up(database) == 0  # an end in a minute that is counted stays uncounted


def test_many_minutes_are_counted_in_batches(database: Database, engine: Engine) -> None:
    for minutes in range(4, 604, 60):
        _end(engine, [a_run(database, window=0) for _ in range(2)], f"{minutes} min")

    passes = 0
    with database.transaction() as session:
        while throughput.roll_up(session, limit=4):
            passes += 1

    assert passes == 5
    assert _rows(engine, "SELECT count(*), sum(runs) FROM throughput") == [(10, 20)]


def test_many_schedulers_count_each_end_once(database: Database, engine: Engine) -> None:
    for minutes in range(4, 34, 3):
        _end(engine, [a_run(database, window=0)], f"{minutes} min")

    with ThreadPoolExecutor(4) as schedulers:
        list(schedulers.map(lambda _: sweeps.roll_up(database), range(12)))

    assert sweeps.roll_up(database) == 0
    assert _rows(engine, "SELECT sum(runs) FROM throughput") == [(10,)]


def test_what_ended_long_ago_is_forgotten(database: Database, engine: Engine) -> None:
    _end(engine, [a_run(database, window=0)], "4 min")
    old = "now() - interval '9 days', workflow_id, 'default', 'failed', 1, 0, 0"
    _change(engine, f"INSERT INTO throughput SELECT tenant_id, {old} FROM runs")

    assert sweeps.roll_up(database) == 1

    assert _rows(engine, "SELECT state FROM throughput") == [("succeeded",)]


def test_an_estimate_is_the_median_of_the_last_runs(database: Database, engine: Engine) -> None:
    runs = [a_run(database, a_spec(steps=2), window=0) for _ in range(61)]
    for number, run in enumerate(runs):
        _end(engine, [run], f"{4 + number} min")
    # The eleven that ended first took very long and are not sampled.
    took = """
        UPDATE runs SET started_at = finished_at -
            CASE WHEN id = ANY(:old) THEN interval '1 h' ELSE interval '8 s' END
    """
    _change(engine, took, old=[run.id for run in runs[50:]])
    steps = """
        UPDATE steps SET state = 'succeeded', finished_at = now(),
            started_at = now() - position * interval '2 s' - interval '1 s'
    """
    _change(engine, steps)

    assert sweeps.roll_up(database) == 61

    statement = "SELECT step, seconds, samples FROM estimates ORDER BY step"
    assert _rows(engine, statement) == [("", 8.0, 50), ("s1", 3.0, 50), ("s2", 5.0, 50)]
    with database.transaction() as session:
        usual = throughput.typical_seconds(session, runs[0].tenant_id, {runs[0].workflow_id})
    assert usual == {runs[0].workflow_id: 8.0}


def test_only_what_succeeded_is_an_example(database: Database, engine: Engine) -> None:
    _end(engine, [a_run(database, window=0)], "4 min", state="failed")
    _end(engine, [a_run(database, window=0)], "4 min", state="cancelled")

    assert sweeps.roll_up(database) == 2

    assert _rows(engine, "SELECT FROM estimates") == []


def test_a_run_starts_at_once_when_a_worker_is_free(database: Database) -> None:
    say(database, a_report(capacity=4, active=2), a_report("w2@there", queues=["io"]))
    runs = [a_run(database, window=0) for _ in range(3)]

    with database.transaction() as session:
        waiting = monitoring_status.wait_estimates(session, runs)

    starts = [waiting[run.id].estimated_start_at for run in runs]
    now = datetime.now(UTC)
    assert [waiting[run.id].position for run in runs] == [1, 2, 3]
    assert all(start is not None and now - start < timedelta(seconds=5) for start in starts[:2])
    assert starts[2] is None


def test_a_run_starts_after_those_before_it_at_the_pace_of_late(
    database: Database, engine: Engine
) -> None:
    _end(engine, [a_run(database, window=0) for _ in range(30)], "4 min")
    sweeps.roll_up(database)
    runs = [a_run(database, window=0) for _ in range(2)]

    with database.transaction() as session:
        waiting = monitoring_status.wait_estimates(session, runs)

    # 30 in five minutes, the shortest time of which a pace is taken: one in ten seconds.
    first, second = (waiting[run.id].estimated_start_at for run in runs)
    assert first is not None
    assert second is not None
    assert (second - first).total_seconds() == pytest.approx(10, abs=0.5)
    assert (first - datetime.now(UTC)).total_seconds() == pytest.approx(10, abs=5)


def test_without_recent_ends_the_pace_is_that_of_typical_runs(
    database: Database, engine: Engine
) -> None:
    done = a_run(database, window=0)
    _end(engine, [done], "30 min")
    sweeps.roll_up(database)
    _change(engine, "UPDATE estimates SET seconds = 3600")
    say(database, a_report(capacity=2, active=2))
    run = a_run(database, window=0)

    with database.transaction() as session:
        start = monitoring_status.wait_estimates(session, [run])[run.id].estimated_start_at

    assert start is not None
    assert (start - datetime.now(UTC)).total_seconds() == pytest.approx(1800, abs=5)


def test_a_run_without_any_data_has_no_estimated_start(database: Database) -> None:
    run = a_run(database, window=0)

    with database.transaction() as session:
        assert monitoring_status.wait_estimates(session, [run]) == {run.id: WaitEstimate(1, None)}


def test_a_start_in_the_far_future_is_not_estimated(database: Database, engine: Engine) -> None:
    _end(engine, [a_run(database, window=0)], "30 min")
    sweeps.roll_up(database)
    _change(engine, "UPDATE estimates SET seconds = 1e15")
    say(database, a_report(active=2))
    run = a_run(database, window=0)

    with database.transaction() as session:
        assert monitoring_status.wait_estimates(session, [run]) == {run.id: WaitEstimate(1, None)}


def test_today_is_counted_up_to_this_moment(database: Database, engine: Engine) -> None:
    for state in ("succeeded", "succeeded", "succeeded", "failed", "timed_out", "cancelled"):
        _end(engine, [a_run(database, window=0)], "4 min", state=state)
    sweeps.roll_up(database)
    _end(engine, [a_run(database, window=0)], "1 s")
    shown = _status(database)

    # Just after midnight the first six ended yesterday.
    now = datetime.now(UTC)
    good, bad, stopped = (
        (4, 2, 1) if (now - timedelta(minutes=4)).date() == now.date() else (1, 0, 0)
    )
    assert shown.runs == {
        "ended_today": good + bad + stopped,
        "succeeded_today": good,
        "failed_today": bad,
        "mean_duration_seconds": pytest.approx(10),
        "average_wait_seconds": pytest.approx(2),
        "success_rate": pytest.approx(good / (good + bad)),
        "throughput_per_hour": 7,
    }
    assert shown.queues["average_wait_seconds"] == pytest.approx(2)


def test_a_backlog_drains_at_the_pace_of_late(database: Database, engine: Engine) -> None:
    assert _status(database).queues["estimated_drain_seconds"] == 0
    _end(engine, [a_run(database, window=0) for _ in range(30)], "4 min")
    sweeps.roll_up(database)
    for _ in range(6):
        a_run(database, window=0)

    assert _status(database).queues["estimated_drain_seconds"] == pytest.approx(60)
    a_run(database, a_spec("other", queue="io"), window=0)
    assert _status(database).queues["estimated_drain_seconds"] is None


def test_a_worker_without_reports_is_offline(database: Database, engine: Engine) -> None:
    say(database, a_report(active=2), a_report("w2@here", draining=True, active=1))

    def shown() -> dict[str, tuple[str, int]]:
        with database.transaction() as session:
            rows = workers.page_of_workers(session, a_tenant(session), workers.real_name)
        return {row.name: (row.status, row.active) for row in rows}

    assert shown() == {"w1@here": ("active", 2), "w2@here": ("draining", 1)}
    _change(engine, "UPDATE workers SET seen_at = now() - interval '14 s'")
    assert shown() == {"w1@here": ("active", 2), "w2@here": ("draining", 1)}
    _change(engine, "UPDATE workers SET seen_at = now() - interval '16 s' WHERE name = 'w1@here'")
    assert shown() == {"w1@here": ("offline", 0), "w2@here": ("draining", 1)}


def test_a_worker_drains_from_the_order_to_the_end_of_its_process(
    database: Database,
) -> None:
    def status(**fields: Any) -> tuple[str, float | None]:
        with database.transaction() as session:
            left = workers.record_report(session, a_report(**fields))
            return workers.get_worker(
                session, a_tenant(session), workers.real_name, "w1@here"
            ).status, left

    def drain(within: timedelta | None) -> None:
        with database.transaction() as session:
            workers.drain_worker(session, workers.find_worker(session, "w1"), within)

    assert status() == ("active", None)
    drain(timedelta(minutes=1))
    word, left = status(active=1)
    assert word == "draining"
    assert left == pytest.approx(60, abs=5)
    assert status(active=1, draining=True)[0] == "draining"
    assert status(draining=True)[0] == "drained"
    drain(None)
    assert status() == ("active", None)
    drain(timedelta(0))
    assert status(started_at=STARTED + timedelta(seconds=1)) == ("active", None)


def test_a_worker_is_found_by_the_beginning_of_its_name(database: Database) -> None:
    say(database, a_report("w1@here"), a_report("w1@there"), a_report("w1"), a_report("nightly@a"))

    with database.transaction() as session:
        assert workers.find_worker(session, "w1") == "w1"
        assert workers.find_worker(session, "n") == "nightly@a"
        with pytest.raises(Conflict, match="may be w1@here, w1@there"):
            workers.find_worker(session, "w1@")
        with pytest.raises(NotFound, match=r"did you mean nightly@a\?"):
            workers.find_worker(session, "nigthly")


def test_a_worker_of_yesterday_is_forgotten(database: Database, engine: Engine) -> None:
    say(database, a_report(), a_report("w2@here"))
    _change(engine, "UPDATE workers SET seen_at = now() - interval '25 h' WHERE name = 'w1@here'")

    assert sweeps.forget_old_rows(database) == 1
    assert sweeps.forget_old_rows(database) == 0
    assert _rows(engine, "SELECT name FROM workers") == [("w2@here",)]


def test_a_worker_removes_its_own_row_only(database: Database, engine: Engine) -> None:
    say(database, a_report(pid=7))
    say(database, a_report(pid=8))  # the name's next process, while the first one ends

    with database.transaction() as session:
        workers.remove_worker(session, "w1@here", 7, STARTED)
    assert _rows(engine, "SELECT pid FROM workers") == [(8,)]
    with database.transaction() as session:
        workers.remove_worker(session, "w1@here", 8, STARTED)
        workers.remove_worker(session, "w1@here", 8, STARTED)
        with pytest.raises(NotFound, match="there is no worker"):
            workers.get_worker(session, UUID(int=0), workers.real_name, "w1@here")


def test_a_host_with_two_workers_has_its_cpus_once(database: Database) -> None:
    say(database, a_report(), a_report("w2@here"), a_report("w3@there", host="there"))

    assert _status(database).resources == {
        "cpus": 8, "cpu_used": 4.0, "memory_total": 16, "memory_used": 6,
        "disk_total": 200, "disk_free": 80,
    }  # fmt: skip


def test_a_worker_that_lacks_processes_is_a_reason(database: Database) -> None:
    short = HOST | {"missing_processes": 1}
    say(database, a_report("one@here", usage=short), a_report("whole@here"))
    one = _status(database)
    say(database, a_report("two@here", usage=short))

    assert (one.status, one.reasons) == (
        "degraded", ["a worker has fewer processes than configured"]
    )  # fmt: skip
    assert _status(database).reasons == ["2 workers have fewer processes than configured"]
