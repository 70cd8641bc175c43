"""Delete runs."""

from uuid import UUID

import pytest
from sqlalchemy import func, select

from orchestrator import runs
from orchestrator.db.database import Database
from orchestrator.errors import Conflict, NotFound
from orchestrator.models import Artifact, ArtifactKind, Event, LogLine, Output, Run, Step
from orchestrator.runs import RetryMode, RetryRequest, RetryTarget, RunFilter
from tests.support.factories import GRACE, WINDOW, a_run


def ended_run(database: Database) -> Run:
    """A run that was cancelled, with a file and a line of its log."""
    run = a_run(database)
    with database.transaction() as session:
        runs.cancel(session, run.tenant_id, run.id, grace=GRACE)
        (step,) = runs.steps(session, run)
        owned = {"tenant_id": run.tenant_id, "run_id": run.id, "step": step.key, "attempt": 1}
        session.add(LogLine(time_ns=1, level=20, text="said", **owned))
        session.add(
            Artifact(
                step_id=step.id,
                name="orders.csv",
                kind=ArtifactKind.DATA,
                title="orders",
                media_type="text/csv",
                size=1,
                sha256="0" * 64,
                address=f"files/{run.id}",
                **owned,
            )
        )
    return run


def delete(database: Database, run: Run) -> list[str]:
    with database.transaction() as session:
        return list(runs.delete(session, run.tenant_id, run.id))


def test_a_run_is_deleted_with_its_outputs(database: Database) -> None:
    run, other = ended_run(database), ended_run(database)

    assert delete(database, run) == [f"files/{run.id}"]

    with database.transaction() as session:
        for table in (Step, Event, LogLine, Output, Artifact):
            mine = select(func.count()).select_from(table)
            assert session.scalar(mine.where(table.run_id == run.id)) == 0
        with pytest.raises(NotFound):
            runs.delete(session, run.tenant_id, run.id)
        assert runs.count(session, run.tenant_id, RunFilter()) == 1
        assert runs.get(session, run.tenant_id, other.id).id == other.id


def test_a_run_that_has_not_ended_is_not_deleted(database: Database) -> None:
    run = a_run(database)

    with pytest.raises(Conflict, match="cancel it first"):
        delete(database, run)


def a_retry(database: Database, run: Run, shows: UUID) -> Run:
    """A cancelled retry of a run as a new one, with the same large result."""
    with database.transaction() as session:
        again = RetryRequest(mode=RetryMode.FULL, where=RetryTarget.NEW)
        new = runs.retry(session, run.tenant_id, run.id, again, window=WINDOW)
        runs.cancel(session, run.tenant_id, new.id, grace=GRACE)
        (step,) = runs.steps(session, new)
        step.result_artifact = shows
    return new


def test_a_large_result_stays_as_long_as_a_run_shows_it(database: Database) -> None:
    first = ended_run(database)
    with database.transaction() as session:
        result = session.scalars(select(Artifact.id)).one()
    second = a_retry(database, first, result)
    third = a_retry(database, second, result)

    assert delete(database, second) == []
    assert delete(database, first) == []
    with database.transaction() as session:
        assert session.scalars(select(Artifact.run_id)).one() == third.id
    assert delete(database, third) == [f"files/{first.id}"]
