"""A worker that heard no answer to its commit finds out what became of it, and takes no other's."""

from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import timedelta

import pytest
from sqlalchemy import Engine

from orchestrator import runs
from orchestrator.broker.messages import Outbound, parse_task_id
from orchestrator.db.database import Database
from orchestrator.engine import attempts, claims
from orchestrator.engine.claims import Claim
from orchestrator.engine.outcomes import Failed, Interrupted, Outcome, Succeeded
from orchestrator.maintenance import sweeps
from tests.support.factories import GRACE, LEASE, a_claim, a_run, eventually, messages_in
from tests.support.statement_recorder import wait_for_locks

AGAIN = {"name": "again", "steps": [{"key": "s", "uses": "x", "retry": {"attempts": 2}}]}
USAGE = {"cpu_seconds": 0.1}


class _Cut(Exception):
    """The connection was lost before the commit."""


def _claimed(database: Database, sent: list[Outbound], **durations: timedelta) -> Claim:
    claim = a_claim(database, messages_in(sent)[-1].task_id, **durations)
    assert claim is not None
    return claim


def _is_claimed(database: Database, claim: Claim) -> bool:
    with database.transaction() as session:
        return claims.was_claimed(session, claim)


def _is_recorded(database: Database, claim: Claim) -> bool:
    with database.transaction() as session:
        return claims.was_recorded(session, claim)


def test_a_claim_that_was_rolled_back_is_not_taken_for_that_of_a_copy_in_the_same_worker(
    database: Database, sent: list[Outbound]
) -> None:
    a_run(database)
    task_id = messages_in(sent)[0].task_id
    parsed = parse_task_id(task_id)
    assert parsed is not None
    with suppress(_Cut), database.transaction() as session:
        lost = claims.claim_attempt(session, *parsed, worker="w1", lease=LEASE, grace=GRACE)
        raise _Cut
    assert lost is not None
    assert not _is_claimed(database, lost)

    copy = _claimed(database, sent)

    assert (copy.attempt, copy.generation) == (lost.attempt, lost.generation)
    assert not _is_claimed(database, lost)
    assert _is_claimed(database, copy)


@pytest.mark.parametrize(
    "outcome", [Succeeded(1), Failed("no"), Interrupted("its worker ends", handed_back=True)]
)
def test_what_a_worker_has_recorded_it_finds_whatever_it_was(
    database: Database, sent: list[Outbound], outcome: Outcome
) -> None:
    a_run(database, AGAIN)
    claim = _claimed(database, sent)
    assert not _is_recorded(database, claim)

    with database.transaction() as session:
        attempts.record_outcome(session, claim, outcome, usage=USAGE)

    assert _is_recorded(database, claim)
    assert not _is_claimed(database, claim)


def test_an_end_that_somebody_else_has_recorded_is_not_the_worker_s(
    database: Database, sent: list[Outbound]
) -> None:
    run = a_run(database)
    claim = _claimed(database, sent, lease=timedelta(0))
    with database.transaction() as session:
        runs.cancel(session, run.tenant_id, run.id, grace=timedelta(0))

    assert sweeps.rescue_expired(database) == 1

    assert not _is_recorded(database, claim)


def test_a_commit_that_is_still_on_its_way_is_waited_for(
    database: Database, sent: list[Outbound], engine: Engine
) -> None:
    a_run(database)
    claim = _claimed(database, sent)

    with ThreadPoolExecutor(1) as worker:
        with database.transaction() as session:
            attempts.record_outcome(session, claim, Succeeded(1), usage=USAGE)
            answer = worker.submit(_is_recorded, database, claim)
            eventually(lambda: wait_for_locks(engine))
        assert answer.result(10)
