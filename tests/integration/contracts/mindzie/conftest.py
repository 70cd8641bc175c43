"""Where the jobs of the tenant `default` are."""

from uuid import UUID

import pytest
from flask.testing import FlaskClient

from orchestrator import catalog
from orchestrator.db import Database
from tests.factories import a_spec
from tests.integration.contracts.mindzie_adapter import place


@pytest.fixture
def jobs(client: FlaskClient, database: Database, tenant_id: UUID) -> str:
    """Where the jobs of the tenant `default` are, which has a workflow `work` of two steps."""
    with database.transaction() as session:
        catalog.register(session, tenant_id, a_spec(steps=2))
    return place(client, tenant_id)
