"""Idempotency keys, parameters of held runs, and chains of retries."""

from datetime import timedelta

import pytest
from sqlalchemy import text

from orchestrator import runs
from orchestrator.db.database import Database
from orchestrator.errors import IdempotencyMismatch, InvalidParams, InvalidTransition
from orchestrator.models import Run
from orchestrator.runs import NewRun, RetryMode, RetryRequest, RetryTarget
from tests.support.factories import GRACE, WINDOW, a_run, a_spec, a_tenant, the_events

TYPED = a_spec(
    params={"type": "object", "properties": {"day": {"type": "string"}, "n": {"type": "integer"}}}
)
BRIEFLY = timedelta(seconds=10)


def _submit(database: Database, key: str = "k", **fields: object) -> tuple[Run, bool]:
    with database.transaction() as session:
        new = NewRun(workflow="work", **fields)  # type: ignore[arg-type]
        return runs.submit(
            session, a_tenant(session), new, window=0, idempotency_key=key, good_for=BRIEFLY
        )


def _age_keys(database: Database) -> None:
    with database.transaction() as session:
        session.execute(text("UPDATE idempotency_keys SET created_at = now() - interval '1 min'"))


def _ended(database: Database) -> Run:
    run = a_run(database, TYPED, window=0, params={"day": "monday"})
    with database.transaction() as session:
        return runs.cancel(session, run.tenant_id, run.id, grace=GRACE)


def test_a_key_that_is_good_for_a_while_makes_another_run_afterwards(database: Database) -> None:
    a_run(database, window=0)
    first, made = _submit(database)
    again, made_again = _submit(database)
    _age_keys(database)
    later, made_later = _submit(database)

    assert (made, made_again, made_later) == (True, False, True)
    assert again.id == first.id != later.id
    with pytest.raises(IdempotencyMismatch):
        _submit(database, reason="another")


def test_a_retry_with_a_key_is_one_new_run(database: Database) -> None:
    run = _ended(database)
    request = RetryRequest(mode=RetryMode.FULL, where=RetryTarget.NEW)

    made = []
    for _ in range(2):
        with database.transaction() as session:
            made.append(
                runs.retry(
                    session, run.tenant_id, run.id, request, window=WINDOW,
                    idempotency_key="k", good_for=BRIEFLY,
                )
            )  # fmt: skip

    assert made[0].id == made[1].id != run.id


def test_a_repeated_run_may_have_another_timeout_and_knows_how_many_came_before(
    database: Database,
) -> None:
    run = _ended(database)
    for nth in (2, 3):
        request = RetryRequest(
            mode=RetryMode.FULL, where=RetryTarget.NEW, timeout=timedelta(minutes=nth)
        )
        with database.transaction() as session:
            run = runs.retry(session, run.tenant_id, run.id, request, window=0)
            assert runs.retry_number(session, run) == nth
            runs.cancel(session, run.tenant_id, run.id, grace=GRACE)
        assert run.timeout == timedelta(minutes=nth)


def test_parameters_of_a_held_run_change_until_it_is_started(database: Database) -> None:
    run = a_run(database, TYPED, start=False, params={"day": "monday", "n": 1})

    with database.transaction() as session:
        amended = runs.amend_run(session, run.tenant_id, run.id, {"n": 2})
        with pytest.raises(InvalidParams):
            runs.amend_run(session, run.tenant_id, run.id, {"n": "two"})
    assert amended.params == {"day": "monday", "n": 2}
    with database.transaction() as session:
        runs.start_held_run(session, run.tenant_id, run.id, window=WINDOW)
    with database.transaction() as session, pytest.raises(InvalidTransition):
        runs.amend_run(session, run.tenant_id, run.id, {"n": 3})
    assert the_events(database, run)[:3] == ["run.created", "run.amended", "run.released"]


def test_a_run_that_never_had_all_its_parameters_is_not_run_again_without_them(
    database: Database,
) -> None:
    spec = a_spec(params={"type": "object", "required": ["day"]})
    run = a_run(database, spec, start=False, complete=False)
    with database.transaction() as session:
        runs.cancel(session, run.tenant_id, run.id, grace=GRACE)

    with database.transaction() as session, pytest.raises(InvalidParams):
        runs.retry(session, run.tenant_id, run.id, RetryRequest(mode=RetryMode.FULL), window=WINDOW)

    with database.transaction() as session:
        again = RetryRequest(mode=RetryMode.FULL, params={"day": "monday"})
        assert runs.retry(session, run.tenant_id, run.id, again, window=WINDOW).id == run.id
