"""What a worker may do with a step, against real Postgres."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import Engine, text

from orchestrator import RetryStep, runs
from orchestrator.broker.messages import Outbound, task_id
from orchestrator.db import transitions
from orchestrator.db.database import Database
from orchestrator.engine import attempts, leases, outcomes
from orchestrator.engine.claims import Claim
from orchestrator.engine.outcomes import Declined, Failed, Interrupted, Outcome, Skipped, Succeeded
from orchestrator.errors import LeaseLost
from orchestrator.maintenance import sweeps
from orchestrator.models import Run
from orchestrator.monitoring.workers import has_handler
from orchestrator.runs import RetryMode, RetryRequest
from tests.integration.monitoring.test_status import a_report, say
from tests.support.factories import GRACE, a_claim, a_run, a_spec, messages_in, the_events, the_run


def _record(database: Database, claim: Claim | None, outcome: Outcome, **more: Any) -> bool:
    assert claim is not None
    with database.transaction() as session:
        return attempts.record_outcome(session, claim, outcome, **more).queue is not None


def test_a_chain_runs_from_the_first_step_to_the_last(
    database: Database, sent: list[Outbound]
) -> None:
    run = a_run(database, a_spec(steps=3))
    first, second, third = messages_in(sent)

    goes_on = _record(
        database, a_claim(database, first.task_id), Succeeded({"n": 1}), continues=second.task_id
    )
    assert goes_on
    claim = a_claim(database, second.task_id)
    assert claim is not None
    assert claim.results == {"s1": {"n": 1}}
    _record(database, claim, Succeeded(), continues=third.task_id)
    _record(database, a_claim(database, third.task_id), Succeeded())

    ended = the_run(database, run)
    assert (ended.state, ended.warnings) == ("succeeded", 0)
    assert [step.state for step in ended.steps] == ["succeeded"] * 3
    assert the_events(database, run) == [
        "run.created", "run.queued", "step.queued",
        "run.started", "step.started", "step.succeeded", "step.queued",
        "step.started", "step.succeeded", "step.queued",
        "step.started", "step.succeeded", "run.succeeded",
    ]  # fmt: skip


def test_only_one_of_many_workers_claims_a_step(database: Database, sent: list[Outbound]) -> None:
    a_run(database)
    (message,) = messages_in(sent)

    with ThreadPoolExecutor(8) as workers:
        claims = list(workers.map(lambda _: a_claim(database, message.task_id), range(8)))

    assert [claim.attempt for claim in claims if claim is not None] == [1]


def test_a_message_of_a_step_that_nobody_knows_is_stale(database: Database) -> None:
    assert a_claim(database, task_id(uuid4(), 1)) is None


def test_a_message_of_an_older_generation_is_stale(
    database: Database, sent: list[Outbound]
) -> None:
    a_run(database)
    (message,) = messages_in(sent)
    step, _, generation = message.task_id.partition(".")

    assert a_claim(database, f"{step}.{int(generation) - 1}") is None


def test_a_rescued_step_is_not_claimed_by_a_copy_of_its_old_message(
    database: Database, sent: list[Outbound]
) -> None:
    a_run(database)
    (message,) = messages_in(sent)
    a_claim(database, message.task_id, lease=timedelta(0))
    assert sweeps.rescue_expired(database) == 1

    assert a_claim(database, message.task_id, worker="w2") is None

    assert sweeps.admit_waiting(database, 100) == 1
    assert a_claim(database, messages_in(sent)[-1].task_id, worker="w2") is not None


def test_a_copy_of_a_message_that_dies_unclaimed_takes_the_step_from_nobody(
    database: Database, sent: list[Outbound]
) -> None:
    run = a_run(database)
    (message,) = messages_in(sent)
    claim = a_claim(database, message.task_id, worker="w1")

    with database.transaction() as session:
        assert attempts.end_lost_attempt(session, message.task_id, "it died", worker="w2") is None
    _record(database, claim, Succeeded())

    (step,) = the_run(database, run).steps
    assert (step.state, step.attempt, step.losses) == ("succeeded", 1, 0)


def test_a_message_in_another_list_is_claimed_by_no_worker_of_that_list(
    database: Database, sent: list[Outbound]
) -> None:
    a_run(database, a_spec(queue="gpu"))
    (message,) = messages_in(sent)

    assert a_claim(database, message.task_id, queues=["default", "cpu"]) is None
    assert a_claim(database, message.task_id, queues=["default", "gpu"]) is not None


def test_a_worker_that_lost_its_lease_cannot_record(
    database: Database, sent: list[Outbound]
) -> None:
    run = a_run(database)
    stale = a_claim(database, messages_in(sent)[0].task_id, lease=timedelta(0))
    assert sweeps.rescue_expired(database) == 1
    assert sweeps.admit_waiting(database, 100) == 1
    fresh = a_claim(database, messages_in(sent)[-1].task_id, worker="w2")

    with pytest.raises(LeaseLost):
        _record(database, stale, Succeeded("late"))
    _record(database, fresh, Succeeded("right"))

    (step,) = the_run(database, run).steps
    assert (step.attempt, step.result, step.state) == (2, "right", "succeeded")


def test_two_parallel_steps_that_end_together_ready_the_join(
    database: Database, sent: list[Outbound]
) -> None:
    parallel = [{"key": f"p{n}", "uses": "noop", "needs": []} for n in range(8)]
    join = {"key": "join", "uses": "noop", "needs": [f"p{n}" for n in range(8)]}
    run = a_run(database, {"name": "join", "steps": [*parallel, join]})
    claims = [a_claim(database, message.task_id) for message in messages_in(sent)]
    sent.clear()

    with ThreadPoolExecutor(8) as workers:
        list(workers.map(lambda claim: _record(database, claim, Succeeded()), claims))

    assert [message.name for message in messages_in(sent)] == ["join/join#1"]
    assert the_run(database, run).steps[-1].state == "queued"


def test_a_failed_attempt_waits_and_is_woken(database: Database, sent: list[Outbound]) -> None:
    spec = {"name": "again", "steps": [
        {"key": "s", "uses": "x", "retry": {"attempts": 2, "delay": 0}}]}  # fmt: skip
    run, failed = a_run(database, spec), Failed("no", ("E",))

    assert not _record(database, a_claim(database, messages_in(sent)[-1].task_id), failed)
    assert the_run(database, run).steps[0].state == "waiting"
    assert sweeps.wake_waiting_steps(database) == 1
    assert not _record(database, a_claim(database, messages_in(sent)[-1].task_id), failed)

    ended = the_run(database, run)
    assert (ended.state, ended.steps[0].attempt) == ("failed", 2)
    assert ended.error == {"step": "s", "message": "no", "kind": "E"}


def test_a_failure_skips_what_needs_it_and_fails_the_run(
    database: Database, sent: list[Outbound]
) -> None:
    run = a_run(database, a_spec(steps=3))
    first, second, _ = messages_in(sent)

    claim = a_claim(database, first.task_id)
    goes_on = _record(database, claim, Failed("no", ("E",)), continues=second.task_id)

    assert not goes_on
    ended = the_run(database, run)
    assert ended.state == "failed"
    assert [(s.state, s.skip_cause) for s in ended.steps] == [
        ("failed", None), ("skipped", "upstream"), ("skipped", "upstream"),
    ]  # fmt: skip
    assert len(sent[-1].revoked) == 2


def test_an_allowed_failure_lets_the_run_succeed(database: Database, sent: list[Outbound]) -> None:
    spec = a_spec(steps=2)
    spec["steps"][0]["allow_failure"] = True
    run = a_run(database, spec)
    first, second = messages_in(sent)

    claim = a_claim(database, first.task_id)
    goes_on = _record(database, claim, Failed("no"), continues=second.task_id)
    again = messages_in(sent)[-1]
    _record(database, a_claim(database, again.task_id), Succeeded())

    # Celery ends a chain at a failure, so the next step has a message of its own.
    assert not goes_on
    assert again.task_id != second.task_id
    assert the_run(database, run).state == "succeeded"


def test_a_false_condition_skips_one_step_only(database: Database, sent: list[Outbound]) -> None:
    run = a_run(database, a_spec(steps=2))
    first, second = messages_in(sent)

    _record(database, a_claim(database, first.task_id), Skipped(), continues=second.task_id)
    _record(database, a_claim(database, second.task_id), Succeeded())

    ended = the_run(database, run)
    assert ended.state == "succeeded"
    assert (ended.steps[0].state, ended.steps[0].skip_cause) == ("skipped", "condition")


def test_a_disabled_step_is_skipped_at_once(database: Database, sent: list[Outbound]) -> None:
    spec = a_spec(steps=2)
    spec["steps"][0]["enabled"] = False
    run = a_run(database, spec)

    assert [step.state for step in the_run(database, run).steps] == ["skipped", "queued"]
    assert [message.name for message in messages_in(sent)] == ["work/s2#1"]


def test_what_follows_a_disabled_step_waits_for_what_is_before_it(
    database: Database, sent: list[Outbound]
) -> None:
    spec = a_spec(steps=4)
    spec["steps"][1]["enabled"] = spec["steps"][2]["enabled"] = False
    run = a_run(database, spec)
    before = [step.state for step in the_run(database, run).steps]

    _record(database, a_claim(database, messages_in(sent)[0].task_id), Succeeded())

    after = [step.state for step in the_run(database, run).steps]
    assert before == ["queued", "skipped", "skipped", "pending"]
    assert after == ["succeeded", "skipped", "skipped", "queued"]
    assert [message.name for message in messages_in(sent)] == ["work/s1#1", "work/s4#1"]


def test_a_step_that_loses_its_workers_is_quarantined(
    database: Database, sent: list[Outbound]
) -> None:
    run = a_run(database)
    for _ in range(outcomes.MAX_LOSSES):
        claim = a_claim(database, messages_in(sent)[-1].task_id)
        _record(database, claim, Interrupted("it died"))
        sweeps.admit_waiting(database, 100)

    ended = the_run(database, run)
    assert ended.state == "failed"
    assert ended.steps[0].error["kind"] == "Quarantined"
    assert a_claim(database, messages_in(sent)[-1].task_id) is None


def test_a_lost_attempt_does_not_count_against_the_retry_policy(
    database: Database, sent: list[Outbound]
) -> None:
    spec = {"name": "r", "steps": [{"key": "s", "uses": "x", "retry": {"attempts": 2, "delay": 0}}]}
    run = a_run(database, spec)
    _record(database, a_claim(database, messages_in(sent)[-1].task_id), Interrupted("it died"))
    sweeps.admit_waiting(database, 100)

    _record(database, a_claim(database, messages_in(sent)[-1].task_id), Failed("no", ("E",)))

    assert the_run(database, run).steps[0].state == "waiting"


def test_a_result_that_is_too_large_fails_with_a_clear_error(
    database: Database, sent: list[Outbound]
) -> None:
    run = a_run(database)

    claim = a_claim(database, messages_in(sent)[0].task_id)
    _record(database, claim, Succeeded("x" * 300_000))

    error = the_run(database, run).steps[0].error
    assert error == {
        "kind": "InvalidResult",
        "message": "the result has 300,002 bytes as JSON; at most 262,144 are kept",
    }


def test_renewing_says_which_attempts_should_stop(database: Database, sent: list[Outbound]) -> None:
    a_run(database, {"name": "t", "steps": [{"key": "s", "uses": "x", "timeout": "1ms"}]})
    task_id = messages_in(sent)[0].task_id
    a_claim(database, task_id, grace=timedelta(0))

    with database.transaction() as session:
        orders = leases.renew_leases(session, "w1", [task_id], lease=timedelta(seconds=5))
        strangers = leases.renew_leases(session, "w2", [task_id], lease=timedelta(seconds=5))

    kill_in = orders[task_id].kill_in
    assert kill_in is not None
    assert kill_in <= 0
    assert strangers == {}


def test_renewing_records_what_a_running_attempt_has_used(
    database: Database, engine: Engine, sent: list[Outbound]
) -> None:
    run = a_run(database, a_spec(steps=2))
    task_id = messages_in(sent)[0].task_id
    claim = a_claim(database, task_id)
    assert claim
    used = {"cpu_seconds": 1.5, "peak_memory_bytes": 7}

    def renew(usage: dict[str, Any]) -> str | None:
        with database.transaction() as session:
            options = {"lease": timedelta(seconds=5), "usage": usage}
            orders = leases.renew_leases(session, "w1", [task_id], **options)
            return orders[task_id].attempt if orders else None

    def recorded() -> Any:
        with engine.begin() as connection:
            return connection.scalar(text("SELECT usage FROM attempts"))

    attempt = renew({})
    assert attempt == f"{claim.step_id}.1"
    assert recorded() is None
    for usage, kept in (({attempt: used}, used), ({}, used), ({"another.1": {"x": 1}}, used)):
        assert renew(usage) == attempt
        assert recorded() == kept
    with database.transaction() as session:  # what a heartbeat wrote is no record of an end
        assert attempts.recover_recorded(session, claim, None, None) is None
    _record(database, claim, Failed("no"))
    assert renew({attempt: used}) is None
    assert recorded() is None
    assert the_run(database, run).state == "failed"


def test_a_handlers_timeout_is_that_of_a_step_without_one(
    database: Database, sent: list[Outbound]
) -> None:
    steps = [
        {"key": "own", "uses": "x", "needs": [], "timeout": "1h"},
        {"key": "none", "uses": "x", "needs": []},
        {"key": "other", "uses": "y", "needs": []},
    ]
    run = a_run(database, {"name": "t", "steps": steps})
    tasks = [message.task_id for message in messages_in(sent)]
    for task in tasks:
        a_claim(database, task, timeouts={"x": 0.001}, grace=timedelta(0))

    with database.transaction() as session:
        orders = leases.renew_leases(session, "w1", tasks, lease=timedelta(seconds=5))
        assert attempts.end_lost_attempt(session, tasks[1], "it was killed")

    own, none, other = (orders[task].kill_in for task in tasks)
    assert own
    assert own > 3000
    assert none is not None
    assert none <= 0
    assert other is None
    error = the_run(database, run).steps[1].error
    assert error == {"kind": "Timeout", "message": "the step ran longer than its timeout"}


def test_a_claim_counts_the_attempts_that_failed(database: Database, sent: list[Outbound]) -> None:
    run = a_run(database)
    later = Failed("later", after=timedelta(0), attempts=3)
    claim = a_claim(database, messages_in(sent)[0].task_id)
    assert claim
    assert claim.retries == 0
    _record(database, claim, Interrupted("it is gone"))
    for count in (0, 1):
        assert sweeps.wake_waiting_steps(database) or sweeps.admit_waiting(database, 100)
        claim = a_claim(database, messages_in(sent)[-1].task_id)
        assert claim
        assert claim.retries == count
        _record(database, claim, later)

    (step,) = the_run(database, run).steps
    assert (step.state, step.attempt, step.max_attempts) == ("waiting", 3, 3)


def test_a_claim_that_a_crash_forgot_cannot_record_for_the_next_one(
    database: Database, sent: list[Outbound]
) -> None:
    a_run(database)
    forgotten = a_claim(database, messages_in(sent)[0].task_id)
    assert forgotten is not None
    older = replace(forgotten, generation=forgotten.generation - 1)

    with pytest.raises(LeaseLost):
        _record(database, older, Succeeded("late"))


def test_a_failure_of_a_stale_attempt_is_refused_too(
    database: Database, sent: list[Outbound]
) -> None:
    run = a_run(database)
    stale = a_claim(database, messages_in(sent)[0].task_id, lease=timedelta(0))
    sweeps.rescue_expired(database)

    with pytest.raises(LeaseLost, match="has ended already"):
        _record(database, stale, Failed("late"))
    assert the_run(database, run).steps[0].state == "queued"


def test_an_attempt_of_a_run_that_was_removed_cannot_record(
    database: Database, sent: list[Outbound]
) -> None:
    run = a_run(database)
    orphan = a_claim(database, messages_in(sent)[0].task_id)
    with database.transaction() as session:
        session.delete(session.get_one(Run, run.id))

    with pytest.raises(LeaseLost, match="its run is gone"):
        _record(database, orphan, Succeeded())
    with database.transaction() as session:
        assert attempts.end_lost_attempt(session, messages_in(sent)[0].task_id, "it died") is None
    assert a_claim(database, messages_in(sent)[0].task_id) is None


def test_what_a_worker_hands_back_is_nobodys_fault(
    database: Database, sent: list[Outbound]
) -> None:
    run = a_run(database)
    for _ in range(outcomes.MAX_LOSSES + 1):
        a_claim(database, messages_in(sent)[-1].task_id)
        with database.transaction() as session:
            task_id = messages_in(sent)[-1].task_id
            lost = attempts.end_lost_attempt(
                session, task_id, "the worker ends", worker="w1", handed_back=True
            )
        assert lost is not None
        assert lost.state == "queued"
        assert sweeps.admit_waiting(database, 100) == 1

    _record(database, a_claim(database, messages_in(sent)[-1].task_id), Succeeded())

    ended = the_run(database, run)
    (step,) = ended.steps
    assert (ended.state, step.attempt, step.losses, step.forgiven) == ("succeeded", 5, 0, 4)
    assert the_events(database, run).count("step.handed_back") == 4


@pytest.mark.parametrize(("timed_out", "ends"), [(False, "cancelled"), (True, "timed_out")])
def test_a_step_that_succeeds_while_its_run_stops_keeps_its_result(
    database: Database, sent: list[Outbound], timed_out: bool, ends: str
) -> None:
    run = a_run(database, a_spec(steps=2))
    first, second = messages_in(sent)
    claim = a_claim(database, first.task_id)
    with database.transaction() as session:
        held = transitions.lock_run(session, run.id)
        assert held is not None
        runs.stop_run(session, held, grace=GRACE, reason="enough", timed_out=timed_out)

    goes_on = _record(database, claim, Succeeded("kept"), continues=second.task_id)

    assert not goes_on
    ended = the_run(database, run)
    assert ended.state == ends
    assert [(step.state, step.result) for step in ended.steps] == [
        ("succeeded", "kept"), ("cancelled", None),
    ]  # fmt: skip


def test_warnings_are_counted_for_the_step_and_its_run(
    database: Database, sent: list[Outbound]
) -> None:
    run = a_run(database, a_spec(steps=2))
    first, second = messages_in(sent)
    _record(
        database, a_claim(database, first.task_id), Succeeded(),
        continues=second.task_id, warnings=3,
    )  # fmt: skip
    _record(database, a_claim(database, second.task_id), Succeeded(), warnings=1)

    counted = the_run(database, run)
    assert [step.warnings for step in counted.steps] == [3, 1]
    assert counted.warnings == 4


def test_a_run_that_fails_by_a_step_it_kept_says_so(
    database: Database, sent: list[Outbound]
) -> None:
    steps = [{"key": key, "uses": "x", "needs": []} for key in ("bad", "good")]
    run = a_run(database, {"name": "kept", "steps": steps})
    bad, good = (a_claim(database, message.task_id) for message in messages_in(sent))
    _record(database, bad, Failed("no", ("E",)))
    _record(database, good, Succeeded())
    with database.transaction() as session:
        again = RetryRequest(mode=RetryMode.FROM_STEP, step="good")
        runs.retry(session, run.tenant_id, run.id, again, window=10)

    _record(database, a_claim(database, messages_in(sent)[-1].task_id), Succeeded())

    ended = the_run(database, run)
    assert (ended.state, ended.error) == ("failed", {"step": "bad", "message": "no", "kind": "E"})


@pytest.mark.parametrize(("after", "seconds"), [(30, 30), (-1, 0), (timedelta.max, 31_536_000)])
def test_any_wait_that_a_handler_asks_for_can_be_kept(
    after: timedelta | float, seconds: int
) -> None:
    assert RetryStep("later", after=after).after == timedelta(seconds=seconds)


def test_a_declined_step_waits_for_another_worker_longer_each_time(
    database: Database, sent: list[Outbound], engine: Engine
) -> None:
    run = a_run(database)
    waits = []

    for _ in range(7):
        claim = a_claim(database, messages_in(sent)[-1].task_id)
        _record(database, claim, Declined("no handler"))
        (step,) = the_run(database, run).steps
        assert (step.state, step.losses, step.error["kind"]) == ("waiting", 0, "UnknownHandler")
        waits.append((step.wake_at - datetime.now(UTC)).total_seconds())
        with engine.begin() as connection:
            connection.execute(text("UPDATE steps SET wake_at = now()"))
        sweeps.wake_waiting_steps(database)
        sweeps.admit_waiting(database, 100)

    assert waits == pytest.approx([0.5, 1, 2, 4, 8, 10, 10], abs=0.4)
    claim = a_claim(database, messages_in(sent)[-1].task_id)
    _record(database, claim, Failed("it went wrong"))
    (step,) = the_run(database, run).steps
    assert (step.state, step.attempt, step.forgiven) == ("failed", 8, 7)


def test_a_declined_step_of_a_run_that_is_cancelled_stops(
    database: Database, sent: list[Outbound]
) -> None:
    run = a_run(database)
    claim = a_claim(database, messages_in(sent)[-1].task_id)
    with database.transaction() as session:
        runs.cancel(session, run.tenant_id, run.id, grace=GRACE)

    _record(database, claim, Declined("no handler"))

    ended = the_run(database, run)
    assert (ended.state, ended.steps[0].state) == ("cancelled", "cancelled")


@pytest.mark.parametrize(
    ("fields", "ago", "knows"),
    [
        ({"handlers": ["noop"]}, "0 s", True),
        ({"handlers": ["noop"], "draining": True}, "0 s", True),
        ({"handlers": ["noop"]}, "1 min", False),
        ({"handlers": ["noop"], "queues": ["other"]}, "0 s", False),
        ({"handlers": ["nooo"]}, "0 s", False),
        ({}, "0 s", False),
    ],
)
def test_a_handler_is_known_to_the_live_workers_of_the_queue(
    database: Database, engine: Engine, fields: dict[str, Any], ago: str, knows: bool
) -> None:
    run = a_run(database)
    say(database, a_report(**fields))
    with engine.begin() as connection:
        silent = "UPDATE workers SET seen_at = now() - CAST(:ago AS interval)"
        connection.execute(text(silent), {"ago": ago})

    with database.transaction() as session:
        assert has_handler(session, the_run(database, run).steps[0].id, "noop") == knows
