"""The address of the jobs of the tenant `default`."""

from uuid import UUID

import pytest
from flask.testing import FlaskClient

from orchestrator import workflows
from orchestrator.db.database import Database
from tests.contracts.adapters.mindzie import place
from tests.support.factories import a_spec


@pytest.fixture
def jobs(client: FlaskClient, database: Database, tenant_id: UUID) -> str:
    """The address of the jobs of the tenant `default`, with a workflow `work` of two steps."""
    with database.transaction() as session:
        workflows.register(session, tenant_id, a_spec(steps=2))
    return place(client, tenant_id)
