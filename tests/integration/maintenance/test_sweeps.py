"""Sweeps that meet somebody: who holds the run, who comes first, and a Postgres that waits."""

from collections.abc import Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta

import pytest
import redis
from sqlalchemy import Connection, Engine, event, text
from sqlalchemy.exc import OperationalError

from orchestrator.broker.client import Broker, make_app
from orchestrator.broker.messages import Outbound
from orchestrator.db.database import Database
from orchestrator.db.engine import make_engine
from orchestrator.engine import attempts, claims, leases
from orchestrator.engine.outcomes import Failed, Succeeded
from orchestrator.local import processes
from orchestrator.maintenance import sweeps
from orchestrator.models import Overlap, Run
from tests.conftest import Services
from tests.support.factories import (
    GRACE,
    WINDOW,
    a_claim,
    a_run,
    a_spec,
    eventually,
    messages_in,
    the_run,
)
from tests.support.schedule_factories import LIMITS, hourly, now, outcomes
from tests.support.statement_recorder import wait_for_locks

OLD = "UPDATE steps SET published_at = now() - interval '1 min' WHERE state = 'queued'"
AGAIN = {"name": "again", "steps": [
    {"key": "s", "uses": "x", "retry": {"attempts": 2, "delay": 0}}]}  # fmt: skip


@pytest.fixture
def broker(services: Services) -> Broker:
    """A broker as the scheduler has it."""
    return Broker(make_app(services.redis_url, publisher=True))


def _due(database: Database) -> set[str]:
    """The sweeps that are due, besides those that only tidy up."""
    sweeps.fold_counters(database)
    sweeps.link_audit(database)
    return sweeps.due_sweeps(database)


@contextmanager
def _held(engine: Engine, run: Run) -> Iterator[None]:
    """Somebody else changes the run."""
    with engine.connect() as holder, holder.begin():
        holder.execute(text("SELECT 1 FROM runs WHERE id = :id FOR UPDATE"), {"id": run.id})
        yield


def _change(engine: Engine, sql: str) -> None:
    with engine.begin() as connection:
        connection.execute(text(sql))


def _claimed(database: Database, sent: list[Outbound]) -> claims.Claim:
    claim = a_claim(database, messages_in(sent)[-1].task_id)
    assert claim is not None
    return claim


def test_a_step_is_not_woken_while_its_run_is_held(
    database: Database, sent: list[Outbound], engine: Engine
) -> None:
    run = a_run(database, AGAIN)
    with database.transaction() as session:
        attempts.record_outcome(session, _claimed(database, sent), Failed("no"))

    with _held(engine, run):
        assert sweeps.wake_waiting_steps(database) == 0
    assert "wake_waiting_steps" in sweeps.due_sweeps(database)
    assert sweeps.wake_waiting_steps(database) == 1

    (step,) = the_run(database, run).steps
    assert (step.state, step.wake_at, step.published_at) == ("queued", None, None)
    assert sweeps.admit_waiting(database, WINDOW) == 1
    assert messages_in(sent)[-1].name == "again/s#2"


def test_a_step_is_not_woken_before_its_retry_is_due(
    database: Database, sent: list[Outbound]
) -> None:
    run = a_run(database, AGAIN)
    with database.transaction() as session:
        later = Failed("no", after=timedelta(minutes=5))
        attempts.record_outcome(session, _claimed(database, sent), later)

    assert "wake_waiting_steps" not in sweeps.due_sweeps(database)
    assert sweeps.wake_waiting_steps(database) == 0
    assert the_run(database, run).steps[0].state == "waiting"


def _a_late_run(database: Database, sent: list[Outbound], engine: Engine) -> Run:
    """One that runs, and whose deadline has passed."""
    run = a_run(database, timeout=timedelta(minutes=1))
    _claimed(database, sent)
    _change(engine, "UPDATE runs SET deadline_at = now() - interval '1 s'")
    return run


def test_a_late_run_is_not_stopped_while_somebody_holds_it(
    database: Database, sent: list[Outbound], engine: Engine
) -> None:
    run = _a_late_run(database, sent, engine)

    with _held(engine, run):
        assert sweeps.expire_timed_out(database, GRACE) == 0
    assert _due(database) == {"expire_timed_out"}
    assert sweeps.expire_timed_out(database, GRACE) == 1

    stopped = the_run(database, run)
    assert (stopped.state, stopped.timed_out) == ("cancelling", True)
    assert "expire_timed_out" not in sweeps.due_sweeps(database)


def test_a_look_reads_no_large_table_for_what_is_not_there(
    database: Database, engine: Engine
) -> None:
    a_run(database)
    many = """
        INSERT INTO runs (id, tenant_id, workflow_id, version_id, workflow, version, state,
            priority, queue, params, tags, trigger, due, timed_out, event_seq, run_at)
        SELECT gen_random_uuid(), tenant_id, workflow_id, version_id, workflow, version,
            CASE n % 4 WHEN 0 THEN 'pending' ELSE 'succeeded' END, priority, queue, '{}', '{}',
            'manual', n % 4 <> 0, false, 0, now() + interval '1 day'
        FROM runs, generate_series(1, 4000) n
    """
    with engine.begin() as connection:
        connection.execute(text(many))
        connection.execute(text("ANALYZE runs"))
        statement = text(f"EXPLAIN {sweeps._DUE_QUERY}")
        plan = list(connection.scalars(statement, {"unclaimed": sweeps.UNCLAIMED}))

    assert [line for line in plan if "Seq Scan on runs" in line] == []
    assert _due(database) == set()


def test_a_run_that_runs_again_with_another_deadline_is_not_stopped_for_the_old_one(
    database: Database, sent: list[Outbound], engine: Engine
) -> None:
    run = _a_late_run(database, sent, engine)
    again = ["UPDATE runs SET deadline_at = now() + interval '1 min'"]

    def meanwhile(_: Connection) -> None:
        if again:  # found late, and not yet looked at again
            _change(engine, again.pop())

    event.listen(engine, "commit", meanwhile)
    try:
        assert sweeps.expire_timed_out(database, GRACE) == 0
    finally:
        event.remove(engine, "commit", meanwhile)

    assert the_run(database, run).state == "running"


def test_a_row_that_no_sweep_can_deal_with_does_not_stop_the_others(
    database: Database, sent: list[Outbound], engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    spec = {"name": "timed", "steps": [{"key": "s", "uses": "x", "timeout": "1s"}]}
    bad, *others = [a_run(database, spec) for _ in range(3)]
    for message in messages_in(sent):
        a_claim(database, message.task_id)
    _change(engine, "UPDATE attempts SET kill_at = now() - interval '1 min'")
    with engine.begin() as connection:
        wrong = """UPDATE steps SET spec = spec || '{"retry": {"attempts": "many"}}'"""
        connection.execute(text(f"{wrong} WHERE run_id = :id"), {"id": bad.id})

    assert sweeps.rescue_expired(database) == 2

    assert [the_run(database, run).state for run in (bad, *others)] == ["running"] + ["failed"] * 2
    assert "sweep failed for a row" in caplog.messages


def test_a_message_is_not_sent_again_while_its_run_is_held(
    database: Database, engine: Engine, broker: Broker
) -> None:
    run = a_run(database, a_spec(queue="held-messages"))
    _change(engine, OLD)

    with _held(engine, run):
        assert sweeps.republish_lost(database, broker) == 0
    assert sweeps.republish_lost(database, broker) == 1


def test_a_broker_that_is_away_is_not_taken_for_an_empty_one(
    database: Database, engine: Engine
) -> None:
    a_run(database)
    _change(engine, OLD)
    away = Broker(make_app(f"redis://127.0.0.1:{processes.free_port()}/0", publisher=True))

    assert _due(database) == {"republish_lost"}
    assert sweeps.republish_lost(database, away) == 0


def test_a_step_that_is_claimed_while_the_broker_is_asked_is_not_sent_again(
    database: Database, sent: list[Outbound], engine: Engine, services: Services
) -> None:
    class Slow(Broker):
        """While it answers, a worker takes the message."""

        def pending(self, queues: Collection[str]) -> Mapping[str, set[str]] | None:
            answer = super().pending(queues)
            _claimed(database, sent)
            return answer

    run = a_run(database)
    _change(engine, OLD)

    assert sweeps.republish_lost(database, Slow(make_app(services.redis_url, publisher=True))) == 0
    assert the_run(database, run).steps[0].state == "running"
    assert len(messages_in(sent)) == 1


def test_a_message_is_given_some_seconds_to_be_claimed(
    database: Database, engine: Engine, broker: Broker
) -> None:
    a_run(database)
    _change(engine, "UPDATE steps SET published_at = now() - interval '2 s'")
    assert _due(database) == set()
    assert sweeps.republish_lost(database, broker) == 0

    _change(engine, "UPDATE steps SET published_at = now() - interval '3.1 s'")
    assert _due(database) == {"republish_lost"}
    assert sweeps.republish_lost(database, broker) == 1


def test_an_attempt_that_ends_while_it_is_rescued_has_ended(
    database: Database, sent: list[Outbound], engine: Engine
) -> None:
    run = a_run(database)
    claim = _claimed(database, sent)

    def lose() -> object:
        with database.transaction() as session:
            return attempts.end_lost_attempt(session, messages_in(sent)[0].task_id, "it died")

    with ThreadPoolExecutor(1) as sweeper:
        with database.transaction() as session:
            attempts.record_outcome(session, claim, Succeeded("right"))
            losing = sweeper.submit(lose)
            eventually(lambda: wait_for_locks(engine))
        assert losing.result(10) is None

    (step,) = the_run(database, run).steps
    assert (step.state, step.result, step.losses) == ("succeeded", "right", 0)


def test_a_lease_that_is_renewed_while_it_is_looked_at_is_good(
    database: Database, sent: list[Outbound]
) -> None:
    run = a_run(database)
    task_id = messages_in(sent)[0].task_id
    a_claim(database, task_id, lease=timedelta(0))
    with database.transaction() as session:
        assert [each.task_id for each in leases.expired_attempts(session)] == [task_id]
        leases.renew_leases(session, "w1", [task_id], lease=timedelta(seconds=5))

    with database.transaction() as session:
        assert attempts.end_lost_attempt(session, task_id) is None
    assert the_run(database, run).steps[0].state == "running"


@pytest.mark.parametrize("overlap", [Overlap.ALLOW, Overlap.CANCEL_RUNNING])
def test_an_instant_is_not_refused_because_postgres_has_to_wait(
    database: Database, engine: Engine, services: Services, overlap: Overlap
) -> None:
    schedule = hourly(database, overlap=overlap)
    hasty = make_engine(services.database_url, lock_timeout="50ms")

    with engine.connect() as holder, holder.begin():
        holder.execute(text("LOCK TABLE firings IN ACCESS EXCLUSIVE MODE"))
        with pytest.raises(OperationalError, match="lock timeout"):
            sweeps.fire(Database(hasty, lambda _: None), LIMITS)
    hasty.dispose()

    assert outcomes(database, schedule) == []
    assert sweeps.fire(database, LIMITS) == 1
    assert outcomes(database, schedule) == ["submitted"]
    assert now(database, schedule).active


def test_a_look_tells_whether_there_is_anything_to_fold(database: Database) -> None:
    a_run(database)
    assert "fold_counters" in sweeps.due_sweeps(database)

    assert sweeps.fold_counters(database) > 0

    assert "fold_counters" not in sweeps.due_sweeps(database)


def test_a_waiting_run_is_admitted_although_another_one_is_held(
    database: Database, engine: Engine
) -> None:
    a_run(database, a_spec("blocker"), window=1)
    held, free = a_run(database, window=1), a_run(database, window=1)

    with _held(engine, held):
        assert sweeps.admit_waiting(database, WINDOW) == 1

    assert the_run(database, free).state == "queued"
    assert the_run(database, held).state == "pending"
    assert _due(database) == {"admit_waiting"}
    assert sweeps.admit_waiting(database, WINDOW) == 1


def test_foreign_content_of_one_queue_delays_no_other(
    database: Database, engine: Engine, broker: Broker, services: Services
) -> None:
    queues = ("of-another-type", "flooded", "sound")
    for queue in queues:
        a_run(database, a_spec(queue, queue=queue))
    _change(engine, OLD)
    with redis.Redis.from_url(services.redis_url) as store:
        store.hset("of-another-type\x06\x165", "a", "b")
        store.lpush("flooded\x06\x165", *[b"[]"] * 1000, b"", b"\xff")

        resent = sweeps.republish_lost(database, broker)

        store.delete("of-another-type\x06\x165", "flooded\x06\x165")
    assert resent == len(queues)
