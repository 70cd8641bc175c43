"""A worker that heard no answer to its commit finds out what became of it, and takes no other's."""

from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta

import pytest
from sqlalchemy import Engine

from orchestrator import runs
from orchestrator.broker.messages import Outbound, parse_task_id, task_id
from orchestrator.db.database import Database
from orchestrator.engine import attempts, claims
from orchestrator.engine.attempts import Recorded, Slot
from orchestrator.engine.claims import Claim, Claimant
from orchestrator.engine.outcomes import Failed, Interrupted, Outcome, Succeeded
from orchestrator.maintenance import sweeps
from tests.support.factories import GRACE, LEASE, a_claim, a_run, a_spec, eventually, messages_in
from tests.support.statement_recorder import wait_for_locks

AGAIN = {"name": "again", "steps": [{"key": "s", "uses": "x", "retry": {"attempts": 2}}]}
USAGE = {"cpu_seconds": 0.1}
CLAIMANT = Claimant(worker="w1", thread=1, queues=["default"], lease=LEASE, grace=GRACE)


class _Cut(Exception):
    """The connection was lost before the commit."""


def _claimed(database: Database, sent: list[Outbound], **options: object) -> Claim:
    claim = a_claim(database, messages_in(sent)[0].task_id, **options)
    assert claim is not None
    return claim


def _held(database: Database, claim: Claim, claimant: Claimant = CLAIMANT) -> Claim | None:
    """What the thread finds that asks for its claim."""
    task = task_id(claim.step_id, claim.generation)
    with database.transaction() as session:
        return claims.recover_claim(session, claim.step_id, task, claimant)


def _recorded(
    database: Database, claim: Claim, continues: str | None = None, slot: Slot | None = None
) -> Recorded | None:
    with database.transaction() as session:
        return attempts.recover_recorded(session, claim, continues, slot)


def test_a_claim_that_was_rolled_back_is_not_taken_for_that_of_a_copy_in_the_same_worker(
    database: Database, sent: list[Outbound]
) -> None:
    a_run(database)
    with suppress(_Cut), database.transaction() as session:
        first = messages_in(sent)[0].task_id
        lost = claims.claim_attempt(session, *(parse_task_id(first) or ()), CLAIMANT)
        raise _Cut
    assert lost is not None
    assert _held(database, lost) is None

    copy = _claimed(database, sent, thread=2)

    assert (copy.attempt, copy.generation) == (lost.attempt, lost.generation)
    assert _held(database, lost) is None
    assert _held(database, lost, replace(CLAIMANT, thread=2)) == copy


@pytest.mark.parametrize(
    "outcome", [Succeeded(1), Failed("no"), Interrupted("its worker ends", handed_back=True)]
)
def test_what_a_worker_has_recorded_it_finds_whatever_it_was(
    database: Database, sent: list[Outbound], outcome: Outcome
) -> None:
    a_run(database, AGAIN)
    claim = _claimed(database, sent)
    assert _held(database, claim) == claim
    assert _recorded(database, claim) is None

    with database.transaction() as session:
        recorded = attempts.record_outcome(session, claim, outcome, usage=USAGE)

    assert _recorded(database, claim) == recorded
    assert _held(database, claim) is None


@pytest.mark.parametrize("in_place", [True, False])
def test_a_worker_finds_what_goes_on_after_what_it_has_recorded(
    database: Database, sent: list[Outbound], in_place: bool
) -> None:
    a_run(database, a_spec(steps=2))
    first, second = messages_in(sent)
    claim = _claimed(database, sent)
    slot = Slot(first.task_id, CLAIMANT) if in_place else None

    with database.transaction() as session:
        recorded = attempts.record_outcome(
            session, claim, Succeeded(1), second.task_id, usage=USAGE, slot=slot
        )

    assert (recorded.claim is not None) == in_place == (recorded.queue is None)
    assert _recorded(database, claim, second.task_id, slot) == recorded


def test_an_end_that_somebody_else_has_recorded_is_not_the_worker_s(
    database: Database, sent: list[Outbound]
) -> None:
    run = a_run(database)
    claim = _claimed(database, sent, lease=timedelta(0))
    with database.transaction() as session:
        runs.cancel(session, run.tenant_id, run.id, grace=timedelta(0))

    assert sweeps.rescue_expired(database) == 1

    assert _recorded(database, claim) is None


def test_a_commit_that_is_still_on_its_way_is_waited_for(
    database: Database, sent: list[Outbound], engine: Engine
) -> None:
    a_run(database)
    claim = _claimed(database, sent)

    with ThreadPoolExecutor(1) as worker:
        with database.transaction() as session:
            attempts.record_outcome(session, claim, Succeeded(1), usage=USAGE)
            answer = worker.submit(_recorded, database, claim)
            eventually(lambda: wait_for_locks(engine))
        assert answer.result(10)
