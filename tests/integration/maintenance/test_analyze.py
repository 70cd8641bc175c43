"""Plans stay good while tables grow, and for lists of any length."""

import pytest
from sqlalchemy import text

from orchestrator import workflows
from orchestrator.db import statements
from orchestrator.db.database import Database
from orchestrator.maintenance import sweeps
from orchestrator.runs import NewRun, batch
from tests.support.factories import a_spec, a_tenant, eventually

RUNS = 1200
_ROW_ESTIMATE = "SELECT reltuples FROM pg_class WHERE relname = 'runs'"


def test_a_table_that_has_doubled_is_analyzed_once(database: Database) -> None:
    with database.transaction() as session:
        tenant = a_tenant(session)
        workflows.register(session, tenant, a_spec(steps=1))
        batch.submit_many(session, tenant, [NewRun(workflow="work")] * RUNS)

    def row_estimate() -> float:
        sweeps.analyze(database)
        with database.transaction() as session:
            return float(session.scalar(text(_ROW_ESTIMATE)) or 0)

    # Postgres counts with a delay of a second, and not for all tables at the same moment.
    eventually(row_estimate, until=lambda rows: rows >= RUNS)
    eventually(lambda: sweeps.analyze(database), until=lambda grown: grown == 0)


@pytest.mark.parametrize("length", [3, 3000])
def test_a_list_may_be_short_or_long(database: Database, length: int) -> None:
    """A long one gets a plan of its own; a parameter may be used twice, and a percent sign."""
    statement = """
        SELECT count(*) AS numbers, 7 % 4 AS rest FROM unnest(CAST(:numbers AS int[])) AS each
        WHERE each = ANY(:numbers) AND each >= :least
    """
    with database.transaction() as session:
        params = {"numbers": list(range(length)), "least": 1}
        (row,) = statements.rows(session, statement, **params)

    assert (row.numbers, row.rest) == (length - 1, 3)
