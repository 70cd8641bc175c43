"""The reference tenant, and clients with keys."""

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import Engine

from orchestrator import workflows
from orchestrator.db.database import Database
from tests.conftest import empty
from tests.contracts.adapter import Adapter
from tests.contracts.adapters import ADAPTERS
from tests.support import reference_tenant
from tests.support.factories import a_spec, a_tenant

GOLDEN = Path(__file__).parent / "golden"
Golden = Callable[[str, Any], None]


@pytest.fixture
def reference_api(engine: Engine, app: Flask) -> Iterator[FlaskClient]:
    """An API without credentials, whose database has the reference tenant and nothing else."""
    with engine.begin() as connection:
        reference_tenant.write(connection)
    yield app.test_client()
    with engine.begin() as connection:
        empty(connection)
        reference_tenant.remove(connection)


@pytest.fixture
def reference_client(reference_api: FlaskClient) -> FlaskClient:
    """A client with the key of the reference tenant."""
    reference_api.environ_base["HTTP_AUTHORIZATION"] = f"Bearer {reference_tenant.SECRET}"
    return reference_api


@pytest.fixture
def ours(client: FlaskClient, database: Database) -> FlaskClient:
    """A client with the key of the tenant `default`, which has a workflow `work`."""
    with database.transaction() as session:
        workflows.register(session, a_tenant(session), a_spec(steps=2))
    return client


@pytest.fixture(params=ADAPTERS, ids=lambda adapter: adapter.name)
def adapter(request: pytest.FixtureRequest) -> Adapter:
    """Each contract in turn."""
    adapter: Adapter = request.param
    return adapter


@pytest.fixture
def golden() -> Golden:
    """Compare with a golden file; `GOLDEN=write` writes it anew, to be reviewed."""

    def compare(name: str, answer: Any) -> None:
        path = GOLDEN / f"{name}.json"
        if os.environ.get("GOLDEN") == "write":
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(answer, indent=2, ensure_ascii=False) + "\n")
        assert answer == json.loads(path.read_text())

    return compare
