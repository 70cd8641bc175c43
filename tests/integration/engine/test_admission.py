"""Which work starts next: windows, priorities, turns between tenants; and the sweeps."""

import re
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import Engine, text

from orchestrator import runs, workflows
from orchestrator.broker.client import Broker, make_app
from orchestrator.broker.messages import Outbound
from orchestrator.db.database import Database
from orchestrator.db.transitions import SATISFIED
from orchestrator.engine import attempts
from orchestrator.engine.outcomes import Failed, Succeeded
from orchestrator.maintenance import sweeps
from orchestrator.models import Project, Run, Tenant
from orchestrator.states import SkipCause, StepState, satisfies
from tests.conftest import Services
from tests.support.factories import GRACE, a_claim, a_run, a_spec, messages_in, the_events, the_run


def _names(sent: list[Outbound]) -> list[str]:
    return [message.name for message in messages_in(sent)]


def _age(engine: Engine, sql: str) -> None:
    with engine.begin() as connection:
        connection.execute(text(sql))


def test_a_run_beyond_the_window_waits_in_postgres(
    database: Database, sent: list[Outbound]
) -> None:
    states = [a_run(database, window=2).state for _ in range(3)]
    ahead = a_run(database, window=3)

    assert states == ["queued", "queued", "pending"]
    assert the_run(database, ahead).state == "pending"
    assert len(messages_in(sent)) == 2


def test_a_held_run_that_is_started_waits_for_the_window_and_its_time(
    database: Database, sent: list[Outbound]
) -> None:
    a_run(database, window=1)
    held = [
        a_run(database, start=False, run_at=at) for at in (None, datetime(2099, 1, 1, tzinfo=UTC))
    ]
    with database.transaction() as session:
        for run, window in zip(held, (1, 10), strict=True):
            runs.start_held_run(session, run.tenant_id, run.id, window=window)

    assert [the_run(database, run).state for run in held] == ["pending", "pending"]
    assert len(messages_in(sent)) == 1


def test_higher_priority_is_admitted_first_across_the_backlog(
    database: Database, sent: list[Outbound]
) -> None:
    a_run(database, a_spec("blocker"), window=1)
    for _ in range(20):
        a_run(database, a_spec("low"), priority=2, window=1)
    a_run(database, a_spec("high"), priority=8, window=1)
    a_run(database, a_spec("normal"), window=1)
    sent.clear()

    assert sweeps.admit_waiting(database, 1) == 0
    for window in (2, 3, 4):
        sweeps.admit_waiting(database, window)

    assert _names(sent) == ["high/s1#1", "normal/s1#1", "low/s1#1"]


def test_a_waiting_run_that_is_reprioritised_goes_first(
    database: Database, sent: list[Outbound]
) -> None:
    a_run(database, a_spec("blocker"), window=1)
    a_run(database, a_spec("early"), window=1)
    late = a_run(database, a_spec("late"), window=1)
    sent.clear()

    with database.transaction() as session:
        runs.change(session, late.tenant_id, late.id, priority=9)
    sweeps.admit_waiting(database, 2)

    assert _names(sent) == ["late/s1#1"]
    assert "run.reprioritised" in the_events(database, late)


def test_tenants_take_turns_at_the_same_priority(
    database: Database, sent: list[Outbound], engine: Engine
) -> None:
    a_run(database, a_spec("blocker"), window=1)
    for _ in range(3):
        a_run(database, a_spec("first"), window=1)
    with database.transaction() as session:
        other = Tenant(name="other")
        session.add(other)
        session.flush()
        session.add(Project(tenant_id=other.id, name="default"))
        session.flush()
        workflows.register(session, other.id, a_spec("second"))
        for _ in range(3):
            runs.submit(session, other.id, runs.NewRun(workflow="second"), window=1)
    sent.clear()

    sweeps.admit_waiting(database, 5)

    assert sorted(_names(sent)) == ["first/s1#1"] * 2 + ["second/s1#1"] * 2
    _age(
        engine,
        "DELETE FROM steps; DELETE FROM runs; DELETE FROM versions; DELETE FROM workflows;"
        " DELETE FROM queue_uses",
    )
    _age(engine, "DELETE FROM projects WHERE tenant_id IN (SELECT id FROM tenants WHERE"
                 " name = 'other'); DELETE FROM tenants WHERE name = 'other'")  # fmt: skip


def test_many_schedulers_admit_each_run_once(database: Database, sent: list[Outbound]) -> None:
    a_run(database, a_spec("blocker"), window=1)
    for _ in range(30):
        a_run(database, window=1)
    sent.clear()

    with ThreadPoolExecutor(4) as schedulers:
        list(schedulers.map(lambda _: sweeps.admit_waiting(database, 40), range(8)))

    task_ids = [message.task_id for message in messages_in(sent)]
    assert len(task_ids) == len(set(task_ids)) == 30


def test_a_wide_fan_out_is_published_as_the_window_empties(
    database: Database, sent: list[Outbound]
) -> None:
    wide = [{"key": f"w{n}", "uses": "noop", "needs": []} for n in range(50)]
    a_run(database, {"name": "wide", "steps": wide})
    assert len(messages_in(sent)) == 16

    assert sweeps.admit_waiting(database, 20) == 4
    assert sweeps.admit_waiting(database, 100) == 30
    assert sweeps.admit_waiting(database, 100) == 0


def test_steps_and_runs_wait_in_one_order(database: Database, sent: list[Outbound]) -> None:
    """Priority first; at the same one, what has begun goes before what has not."""
    wide = [{"key": f"w{n:02}", "uses": "noop", "needs": []} for n in range(18)]
    a_run(database, {"name": "wide", "steps": wide}, priority=4)
    for name, priority in (("low", 2), ("same", 4), ("high", 6)):
        a_run(database, a_spec(name), priority=priority, window=1)
    sent.clear()

    for window in range(17, 22):
        assert sweeps.admit_waiting(database, window) == 1

    assert _names(sent) == ["high/s1#1", "wide/w16#1", "wide/w17#1", "same/s1#1", "low/s1#1"]


def test_a_run_is_held_until_its_start_time(
    database: Database, sent: list[Outbound], engine: Engine
) -> None:
    run = a_run(database, run_at=datetime.now(UTC) + timedelta(hours=1))
    assert sweeps.release_due_runs(database) == 0
    assert sweeps.admit_waiting(database, 10) == 0

    _age(engine, "UPDATE runs SET run_at = now() - interval '1 s'")

    sweeps.fold_counters(database)
    sweeps.link_audit(database)
    assert sweeps.due_sweeps(database) == {"release_due_runs"}
    assert sweeps.release_due_runs(database) == 1
    assert sweeps.admit_waiting(database, 10) == 1
    assert the_run(database, run).state == "queued"


def test_a_message_that_nobody_has_is_sent_again(
    database: Database, sent: list[Outbound], engine: Engine, services: Services
) -> None:
    run = a_run(database, a_spec(steps=2, queue="lost-messages"))
    broker = Broker(make_app(services.redis_url, publisher=True))
    assert sweeps.republish_lost(database, broker) == 0

    _age(engine, "UPDATE steps SET published_at = now() - interval '1 min' WHERE state = 'queued'")

    assert sweeps.republish_lost(database, broker) == 1
    first, again = messages_in(sent)[0].task_id, messages_in(sent)[2].task_id
    assert a_claim(database, first) is None
    assert a_claim(database, again) is not None
    assert the_run(database, run).state == "running"


def test_many_messages_that_wait_do_not_hide_one_that_is_lost(
    database: Database, sent: list[Outbound], engine: Engine, services: Services
) -> None:
    broker = Broker(make_app(services.redis_url, publisher=True))
    wide = [{"key": f"w{n}", "uses": "noop", "needs": []} for n in range(210)]
    a_run(database, {"name": "wide", "queue": "nobody-listens", "steps": wide})
    sweeps.admit_waiting(database, 300)
    for outgoing in sent:
        broker.deliver(outgoing)
    a_run(database, a_spec(queue="lost-one"))

    _age(engine, "UPDATE steps SET published_at = now() - interval '1 min' WHERE state = 'queued'")

    assert sweeps.republish_lost(database, broker) == 1


def test_a_run_that_somebody_holds_does_not_stop_the_sweeps(
    database: Database, sent: list[Outbound], engine: Engine
) -> None:
    held = a_run(database)
    free = a_run(database)
    for message in messages_in(sent):
        a_claim(database, message.task_id, lease=timedelta(0))
    assert sweeps.rescue_expired(database, silent=False) == 0

    with engine.connect() as holder, holder.begin():
        holder.execute(text("SELECT 1 FROM runs WHERE id = :id FOR UPDATE"), {"id": held.id})
        assert sweeps.rescue_expired(database) == 1

    assert the_run(database, held).steps[0].state == "running"
    assert the_run(database, free).steps[0].state == "queued"
    assert sweeps.rescue_expired(database) == 1


def test_a_message_that_waits_in_the_broker_is_not_sent_again(
    database: Database, sent: list[Outbound], engine: Engine, services: Services
) -> None:
    a_run(database, a_spec(queue="kept-messages"))
    broker = Broker(make_app(services.redis_url, publisher=True))
    broker.deliver(sent[-1])

    _age(engine, "UPDATE steps SET published_at = now() - interval '1 min'")

    assert sweeps.republish_lost(database, broker) == 0


@pytest.mark.parametrize("silent", [True, False], ids=["ever", "after an outage"])
def test_a_cancelled_run_whose_worker_is_gone_ends_in_time(
    database: Database, sent: list[Outbound], engine: Engine, silent: bool
) -> None:
    run = a_run(database, a_spec(steps=2))
    a_claim(database, messages_in(sent)[0].task_id)
    with database.transaction() as session:
        runs.cancel(session, run.tenant_id, run.id, grace=GRACE)
    assert sweeps.rescue_expired(database) == 0

    _age(engine, "UPDATE runs SET stop_by = now() - interval '2 s'")

    assert "rescue_expired" in sweeps.due_sweeps(database)
    assert sweeps.rescue_expired(database, silent=silent) == 1
    assert the_run(database, run).state == "cancelled"
    assert the_events(database, run)[-2:] == ["step.cancelled", "run.cancelled"]


def test_a_run_past_its_deadline_is_stopped(
    database: Database, sent: list[Outbound], engine: Engine
) -> None:
    run = a_run(database, timeout=timedelta(minutes=1))
    a_claim(database, messages_in(sent)[0].task_id)
    _age(engine, "UPDATE runs SET deadline_at = now() - interval '1 s'")

    assert sweeps.expire_timed_out(database, GRACE) == 1

    assert the_run(database, run).state == "cancelling"
    assert sweeps.expire_timed_out(database, GRACE) == 0


def test_a_waiting_step_of_a_failed_run_is_not_woken(
    database: Database, sent: list[Outbound]
) -> None:
    retried: dict[str, Any] = {"key": "r", "uses": "x", "needs": [], "retry": {"delay": 0}}
    final = {"key": "f", "uses": "x", "needs": []}
    run = a_run(database, {"name": "doomed", "steps": [retried, final]})
    first, second = (a_claim(database, each.task_id) for each in messages_in(sent))
    assert first is not None
    assert second is not None
    for claim in (first, second):
        with database.transaction() as session:
            attempts.record_outcome(session, claim, Failed("no", final=claim.key == "f"))

    assert sweeps.wake_waiting_steps(database) == 0
    assert the_run(database, run).state == "failed"


def test_what_runs_beside_a_failure_may_end(database: Database, sent: list[Outbound]) -> None:
    spec = {"name": "beside", "steps": [
        {"key": "bad", "uses": "x", "needs": []},
        {"key": "good", "uses": "x", "needs": []},
        {"key": "after", "uses": "x", "needs": ["good"]},
    ]}  # fmt: skip
    run = a_run(database, spec)
    bad, good = (a_claim(database, head.task_id) for head, _ in sent[-1].messages)
    assert bad is not None
    assert good is not None

    with database.transaction() as session:
        attempts.record_outcome(session, bad, Failed("no"))
    assert the_run(database, run).state == "running"
    with database.transaction() as session:
        attempts.record_outcome(session, good, Succeeded("kept"))

    ended = the_run(database, run)
    assert ended.state == "failed"
    assert [step.state for step in ended.steps] == ["failed", "succeeded", "skipped"]


def test_sql_and_python_agree_on_what_satisfies_a_need(engine: Engine) -> None:
    cases = [
        (state, cause, allowed)
        for state in StepState
        for cause in (None, *SkipCause)
        for allowed in (True, False)
        if (state == StepState.SKIPPED) == (cause is not None)
    ]
    statement = text(
        f"SELECT coalesce({SATISFIED}, false) FROM (SELECT CAST(:s AS text) AS state,"
        " CAST(:c AS text) AS skip_cause, CAST(:a AS bool) AS allow_failure) need"
    )

    with engine.connect() as connection:
        satisfied = [connection.scalar(statement, {"s": s, "c": c, "a": a}) for s, c, a in cases]

    assert satisfied == [satisfies(*case) for case in cases]


def test_a_backlog_of_ten_thousand_runs_is_admitted_by_index(
    database: Database, engine: Engine
) -> None:
    run = _backlog(database)
    with engine.connect() as connection:
        connection.execute(text("ANALYZE runs"))
        plan = connection.scalars(
            text(
                "EXPLAIN SELECT id FROM runs WHERE tenant_id = :tenant AND queue = 'default'"
                " AND state = 'pending' AND due ORDER BY priority DESC, number LIMIT 100"
            ),
            {"tenant": run.tenant_id},
        ).all()

    assert "ix_runs_waiting" in "\n".join(plan)


def test_a_new_run_is_not_held_up_by_the_backlog_of_another_queue(
    database: Database, engine: Engine
) -> None:
    run = a_run(database, window=1)
    alone = _buffers_read(engine, run)
    _backlog(database)

    assert _buffers_read(engine, run) < alone + 20  # reading the backlog takes 6,000


def _buffers_read(engine: Engine, run: Run) -> int:
    """The pages that `may_start` reads for a run of an empty queue, once its plans are kept."""
    statement = "SELECT may_start(:id, 'another', 4, 100)"
    with engine.connect() as connection:
        connection.execute(text("ANALYZE runs"))
        for _ in range(10):
            assert connection.scalar(text(statement), {"id": run.id})
        explained = text(f"EXPLAIN (ANALYZE, BUFFERS, TIMING OFF) {statement}")
        plan = "\n".join(connection.scalars(explained, {"id": run.id}))
    read = re.search(r"shared hit=(\d+)", plan)
    assert read is not None, plan
    return int(read[1])


def _backlog(database: Database) -> Run:
    """Ten thousand runs that wait in the default queue, like the one that is given."""
    run = a_run(database, window=1)
    with database.transaction() as session:
        session.execute(
            text(
                "INSERT INTO runs (id, tenant_id, workflow_id, version_id, workflow, version,"
                " state, priority, queue, params, tags, trigger, due, timed_out, event_seq)"
                " SELECT gen_random_uuid(), tenant_id, workflow_id, version_id, workflow, version,"
                " 'pending', n % 10, queue, params, tags, trigger, true, false, 0"
                " FROM runs, generate_series(1, 10000) n WHERE id = :id"
            ),
            {"id": run.id},
        )
    return run
