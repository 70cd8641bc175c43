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
from tests.contracts import goldens
from tests.contracts.adapter import Adapter
from tests.contracts.adapters import ADAPTERS
from tests.support import reference_tenant
from tests.support.factories import a_spec, a_tenant
from tests.support.openapi import Answer

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
def golden(answers: list[Answer], request: pytest.FixtureRequest) -> Golden:
    """Compare with a golden file; `GOLDEN=write` writes it anew, to be reviewed.

    Which answer of the API it is, by its operation, is kept beside it.
    """
    test = f"{request.path.relative_to(Path(__file__).parent)}::{request.function.__name__}"

    def compare(name: str, answer: Any) -> None:
        path = goldens.FOLDER / f"{name}.json"
        entries = goldens.entries_of(name, answer, answers, test)
        if os.environ.get("GOLDEN") == "write":
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(answer, indent=2, ensure_ascii=False) + "\n")
            goldens.write(goldens.index() | entries)
        assert answer == json.loads(path.read_text())
        assert goldens.index().items() >= entries.items(), "write it anew, with GOLDEN=write"

    return compare


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let `-k golden` choose every test that compares with golden files."""
    for item in items:
        if isinstance(item, pytest.Function) and "golden" in item.fixturenames:
            item.extra_keyword_matches.add("golden")
