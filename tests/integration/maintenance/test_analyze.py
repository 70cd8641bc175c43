"""Plans stay good while tables grow."""

import pytest
from sqlalchemy import text

from orchestrator import runs, workflows
from orchestrator.db import statements
from orchestrator.db.database import Database
from orchestrator.maintenance import sweeps
from orchestrator.runs import NewRun
from tests.support.factories import a_spec, a_tenant, eventually

MANY = 1200
_KNOWN = "SELECT reltuples FROM pg_class WHERE relname = 'runs'"


def test_a_table_that_has_doubled_is_looked_at_once(database: Database) -> None:
    with database.transaction() as session:
        tenant = a_tenant(session)
        workflows.register(session, tenant, a_spec(steps=1))
        runs.submit_many(session, tenant, [NewRun(workflow="work")] * MANY)

    def known() -> float:
        sweeps.analyze(database)
        with database.transaction() as session:
            return float(session.scalar(text(_KNOWN)) or 0)

    # Postgres counts with a delay of a second, and not for all tables at the same moment.
    eventually(known, until=lambda rows: rows >= MANY)
    eventually(lambda: sweeps.analyze(database), until=lambda grown: grown == 0)


@pytest.mark.parametrize("many", [3, 3000])
def test_a_list_may_be_short_or_long(database: Database, many: int) -> None:
    """A long one is planned for; `:given` is there twice, and the sign of a percent once."""
    asked = """
        SELECT count(*) AS found, 7 % 4 AS rest FROM unnest(CAST(:given AS int[])) AS each
        WHERE each = ANY(:given) AND each >= :least
    """
    with database.transaction() as session:
        given = {"given": list(range(many)), "least": 1}
        (row,) = statements.rows(session, asked, **given)

    assert (row.found, row.rest) == (many - 1, 3)
