"""A stack whose Redis can be killed and restarted."""

from collections.abc import Iterator

import pytest
from sqlalchemy import Engine

from orchestrator.client import Client
from orchestrator.local.stack import Stack
from tests.chaos.fragile import FragileRedis
from tests.chaos.invariants import broken
from tests.conftest import Services, empty
from tests.support.processes import running


@pytest.fixture(scope="package")
def fragile_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FragileRedis]:
    """The Redis of the stack."""
    server = FragileRedis(tmp_path_factory.mktemp("redis"))
    yield server
    server.kill()


@pytest.fixture(scope="package")
def stack(
    services: Services,
    engine: Engine,
    fragile_redis: FragileRedis,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Stack]:
    """API, scheduler and two workers; the database is emptied at the end."""
    directory = tmp_path_factory.mktemp("chaos")
    with running(directory, services.database_url, fragile_redis.url) as stack:
        yield stack
    with engine.begin() as connection:
        empty(connection)


@pytest.fixture
def client(stack: Stack, engine: Engine) -> Iterator[Client]:
    """A client of the stack's API; after the test, the invariants are checked."""
    yield Client(stack.url, stack.key)
    assert broken(engine) == {}
