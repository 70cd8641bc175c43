"""A worker goes on in place: it claims the next step of a run with the outcome of the last one."""

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from orchestrator import runs
from orchestrator.broker.messages import Outbound, task_id
from orchestrator.db.database import Database
from orchestrator.engine import attempts, leases
from orchestrator.engine.attempts import Recorded, Slot
from orchestrator.engine.claims import Claim, Claimant
from orchestrator.engine.outcomes import Failed, Interrupted, Outcome, Skipped, Succeeded
from orchestrator.maintenance import sweeps
from orchestrator.models import Run
from tests.support.factories import (
    GRACE,
    LEASE,
    WINDOW,
    a_claim,
    a_run,
    a_spec,
    messages_in,
    the_events,
    the_run,
)

CLAIMANT = Claimant(worker="w1", thread=1, queues=["default"], lease=LEASE, grace=GRACE)
JOIN = {
    "name": "join",
    "steps": [
        {"key": "a", "uses": "noop"},
        {"key": "b", "uses": "noop", "needs": []},
        {"key": "c", "uses": "noop", "needs": ["a", "b"]},
    ],
}
FAN_OUT = {
    "name": "fan-out",
    "steps": [
        {"key": "a", "uses": "noop"},
        {"key": "b", "uses": "noop", "needs": ["a"]},
        {"key": "c", "uses": "noop", "needs": ["a"]},
    ],
}
OTHER_QUEUE = {
    "name": "other",
    "steps": [{"key": "a", "uses": "noop"}, {"key": "b", "uses": "noop", "queue": "gpu"}],
}


def _claimed(database: Database, task: str) -> Claim:
    claim = a_claim(database, task)
    assert claim is not None
    return claim


def _finish(
    database: Database,
    claim: Claim,
    carrier: str,
    outcome: Outcome | None = None,
    continues: str | None = None,
    **claimant: Any,
) -> Recorded:
    slot = Slot(carrier, replace(CLAIMANT, **claimant))
    with database.transaction() as session:
        return attempts.record_outcome(
            session, claim, outcome or Succeeded(1), continues, slot=slot
        )


def _begin(
    database: Database, sent: list[Outbound], spec: dict[str, Any]
) -> tuple[Run, Claim, str]:
    """A run whose first step is claimed, and the task that carries it."""
    run = a_run(database, spec)
    carrier = messages_in(sent)[0].task_id
    return run, _claimed(database, carrier), carrier


def _goes_on_in_place(
    database: Database, sent: list[Outbound], spec: dict[str, Any]
) -> tuple[Run, Claim, str]:
    """A run whose second step was claimed in place."""
    run, claim, carrier = _begin(database, sent, spec)
    following = _finish(database, claim, carrier, continues=messages_in(sent)[1].task_id).claim
    assert following is not None
    return run, following, carrier


@pytest.mark.parametrize("outcome", [Succeeded({"n": 1}), Skipped()])
def test_the_only_step_that_becomes_ready_is_claimed_with_the_outcome(
    database: Database, sent: list[Outbound], outcome: Outcome
) -> None:
    run, claim, carrier = _begin(database, sent, a_spec(steps=2))

    recorded = _finish(database, claim, carrier, outcome, messages_in(sent)[1].task_id)

    assert recorded.queue is None  # nothing for Celery to publish
    following = recorded.claim
    assert following is not None
    assert (following.key, following.attempt, following.retries) == ("s2", 1, 0)
    assert following.results == {"s1": {"n": 1} if isinstance(outcome, Succeeded) else None}
    second = the_run(database, run).steps[1]
    assert (second.state, second.worker) == ("running", "w1")
    assert second.task_id == messages_in(sent)[1].task_id  # it keeps its own
    assert the_events(database, run)[5:] == [f"step.{recorded.state}", "step.started"]
    assert len(sent) == 1
    assert _finish(database, following, carrier).state == "succeeded"
    assert the_run(database, run).state == "succeeded"


def test_it_goes_on_from_segment_to_segment(database: Database, sent: list[Outbound]) -> None:
    run, claim, carrier = _begin(database, sent, a_spec(steps=40))
    chain = [message.task_id for message in messages_in(sent)[1:]]
    assert len(chain) < 39

    for _ in range(39):
        recorded = _finish(database, claim, carrier, continues=chain[0] if chain else None)
        assert recorded.claim is not None
        claim = recorded.claim
        if chain:
            assert task_id(claim.step_id, claim.generation) == chain.pop(0)
    _finish(database, claim, carrier)

    ended = the_run(database, run)
    assert ended.state == "succeeded"
    assert len({step.task_id for step in ended.steps}) == 40
    assert len(sent) == 1


def _failed_elsewhere(database: Database, sent: list[Outbound]) -> tuple[Claim, str]:
    spec = {
        "name": "two",
        "steps": [
            {"key": "a", "uses": "noop"},
            {"key": "b", "uses": "noop", "needs": []},
            {"key": "c", "uses": "noop", "needs": ["a"]},
        ],
    }
    a_run(database, spec)
    first, other = (head.task_id for head, _ in sent[-1].messages)
    claim, failing = _claimed(database, first), _claimed(database, other)
    _finish(database, failing, other, Failed("no"))
    return claim, first


def _cancelling(database: Database, sent: list[Outbound]) -> tuple[Claim, str]:
    run, claim, carrier = _begin(database, sent, a_spec(steps=2))
    with database.transaction() as session:
        runs.cancel(session, run.tenant_id, run.id, grace=GRACE)
    return claim, carrier


def _higher_priority_waits(database: Database, sent: list[Outbound]) -> tuple[Claim, str]:
    _, claim, carrier = _begin(database, sent, a_spec(steps=2))
    a_run(database, a_spec("urgent"), priority=8)
    return claim, carrier


def _of(spec: dict[str, Any]) -> Callable[..., tuple[Claim, str]]:
    return lambda database, sent: _begin(database, sent, spec)[1:]


@pytest.mark.parametrize(
    ("scene", "outcome"),
    [
        (_of(OTHER_QUEUE), Succeeded(1)),
        (_of(FAN_OUT), Succeeded(1)),
        (_of(JOIN), Succeeded(1)),
        (_of(a_spec(steps=2)), Failed("no")),
        (_of(a_spec(steps=2)), Failed("later", attempts=2)),
        (_of(a_spec(steps=2)), Interrupted("its worker ends", handed_back=True)),
        (_failed_elsewhere, Succeeded(1)),
        (_cancelling, Succeeded(1)),
        (_cancelling, Interrupted("told to stop")),
        (_higher_priority_waits, Succeeded(1)),
    ],
)
def test_otherwise_the_slot_is_free(
    database: Database, sent: list[Outbound], scene: Callable[..., Any], outcome: Outcome
) -> None:
    claim, carrier = scene(database, sent)

    recorded = _finish(database, claim, carrier, outcome)

    assert recorded.claim is None
    with database.transaction() as session:
        assert leases.renew_leases(session, "w1", [carrier], lease=LEASE) == {}


def test_a_lower_priority_that_waits_holds_nobody_up(
    database: Database, sent: list[Outbound]
) -> None:
    _, claim, carrier = _begin(database, sent, a_spec(steps=2))
    a_run(database, a_spec("later"), priority=2)

    assert _finish(database, claim, carrier).claim is not None


def test_what_becomes_ready_otherwise_is_published(
    database: Database, sent: list[Outbound]
) -> None:
    run, claim, carrier = _begin(database, sent, OTHER_QUEUE)

    _finish(database, claim, carrier)

    assert messages_in(sent)[-1].queue == "gpu"
    assert _claimed(database, messages_in(sent)[-1].task_id).key == "b"
    assert the_run(database, run).steps[1].state == "running"


def test_a_step_beyond_the_segment_has_a_new_generation(
    database: Database, sent: list[Outbound]
) -> None:
    run, claim, carrier = _begin(database, sent, a_spec(steps=2))
    stale = messages_in(sent)[1].task_id

    following = _finish(database, claim, carrier).claim  # the chain was lost

    assert following is not None
    assert the_run(database, run).steps[1].task_id != stale
    assert a_claim(database, stale) is None


def test_the_task_that_carries_it_stands_for_it(database: Database, sent: list[Outbound]) -> None:
    run, _, carrier = _goes_on_in_place(database, sent, a_spec(steps=3))

    with database.transaction() as session:
        orders = leases.renew_leases(session, "w1", [carrier], lease=LEASE)
    assert orders[carrier].stop is False
    with database.transaction() as session:
        runs.cancel(session, run.tenant_id, run.id, grace=GRACE)
    assert carrier in sent[-1].revoked
    with database.transaction() as session:
        assert leases.renew_leases(session, "w1", [carrier], lease=LEASE)[carrier].stop
    with database.transaction() as session:
        lost = attempts.end_lost_attempt(session, carrier, "its process ended", worker="w1")
    assert lost is not None
    assert lost.state == "cancelled"
    assert the_run(database, run).state == "cancelled"


def test_one_whose_process_dies_is_published_again(
    database: Database, sent: list[Outbound]
) -> None:
    run, following, carrier = _goes_on_in_place(database, sent, a_spec(steps=3))

    with database.transaction() as session:
        lost = attempts.end_lost_attempt(session, carrier, "its process ended", worker="w1")
    assert lost is not None
    assert lost.state == "queued"
    sweeps.admit_waiting(database, window=WINDOW)

    again = _claimed(database, messages_in(sent[1:])[0].task_id)
    assert (again.step_id, again.attempt) == (following.step_id, 2)
    assert the_run(database, run).steps[0].state == "succeeded"


def test_one_whose_worker_goes_silent_is_rescued(database: Database, sent: list[Outbound]) -> None:
    run, claim, carrier = _begin(database, sent, a_spec(steps=2))
    _finish(database, claim, carrier, lease=timedelta(0))

    assert sweeps.rescue_expired(database) == 1

    assert the_run(database, run).steps[1].state == "queued"


def test_a_handler_s_timeout_counts_from_its_own_start(
    database: Database, sent: list[Outbound]
) -> None:
    spec = a_spec(steps=2)
    spec["steps"][1]["timeout"] = 100
    _, _, carrier = _goes_on_in_place(database, sent, spec)

    with database.transaction() as session:
        order = leases.renew_leases(session, "w1", [carrier], lease=LEASE)[carrier]

    assert order.kill_in is not None
    assert 90 < order.kill_in <= 100 + GRACE.total_seconds()
