"""One stack of real processes for all end-to-end tests."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine

from orchestrator.client import Client
from orchestrator.local.stack import Stack
from tests.conftest import Services, empty
from tests.support import previous_release
from tests.support.processes import running

collect_ignore = [] if previous_release.is_here() else ["test_upgrade.py"]


@pytest.fixture(scope="package")
def stack(
    services: Services, engine: Engine, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stack]:
    """API, scheduler and two workers; the database is emptied at the end."""
    directory = tmp_path_factory.mktemp("stack")
    with running(directory, services.database_url, services.redis_url, flower=True) as stack:
        yield stack
    with engine.begin() as connection:
        empty(connection)


@pytest.fixture
def client(stack: Stack) -> Client:
    """A client of the stack's API."""
    return Client(stack.url, stack.key)


@pytest.fixture
def say(tmp_path: Path) -> Path:
    """The file to which test handlers write."""
    return tmp_path / "said"
