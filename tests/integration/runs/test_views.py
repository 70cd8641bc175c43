"""The function that reads a run with its steps."""

import re
from collections.abc import Iterator

import pytest
from sqlalchemy import Engine, text

from orchestrator.broker.messages import Outbound
from orchestrator.db import statements
from orchestrator.db.database import Database
from orchestrator.db.engine import make_engine
from orchestrator.db.row_security import API_ROLE
from orchestrator.models import Run
from tests.conftest import Services
from tests.support.factories import a_claim, a_run, a_spec, messages_in

_STEPS = 2000
_EMPTY = text("TRUNCATE steps, attempts, outputs, estimates CASCADE")
_BEGIN_ALL = text("""
    INSERT INTO attempts (step_id, number, run_id, task_id, worker, lease_until, usage)
    SELECT id, 1, run_id, id || '.1', 'w', now(), '{"cpu_seconds": 1}' FROM steps
    WHERE run_id = :id AND state = 'pending'
""")
_READ = """
    EXPLAIN (ANALYZE, BUFFERS, TIMING OFF)
    SELECT (run).*, steps, usage, wait FROM view_run(:run, :tenant)
"""


@pytest.fixture
def api(services: Services) -> Iterator[Database]:
    """One connection with the rights of the API."""
    engine = make_engine(services.database_url, pool_size=1, role=API_ROLE)
    yield Database(engine, lambda _: None)
    engine.dispose()


def _pages_read(api: Database, run: Run) -> int:
    with api.transaction(run.tenant_id) as session:
        rows = statements.rows(session, _READ, run=run.id, tenant=run.tenant_id)
    plan = "\n".join(row[0] for row in rows)
    read = re.search(r"shared hit=(\d+)", plan)
    assert read is not None, plan
    return int(read[1])


def test_a_long_run_costs_the_same_for_each_step_with_plans_of_empty_tables(
    database: Database, sent: list[Outbound], api: Database, engine: Engine
) -> None:
    with engine.begin() as connection:
        connection.execute(_EMPTY)
    small = a_run(database, a_spec("small"))
    assert a_claim(database, messages_in(sent)[-1].task_id)
    for _ in range(10):  # until its plans are kept
        _pages_read(api, small)
    long = a_run(database, a_spec("long", steps=_STEPS))
    assert a_claim(database, sent[-1].messages[0][0].task_id)
    with engine.begin() as connection:
        connection.execute(_BEGIN_ALL, {"id": long.id})

    assert _pages_read(api, long) < 60 * _STEPS
