"""A stack whose Redis can be taken away."""

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
    """API, scheduler and two workers; nothing is left for tests of another kind."""
    directory = tmp_path_factory.mktemp("chaos")
    with running(directory, services.database_url, fragile_redis.url) as stack:
        yield stack
    with engine.begin() as connection:
        empty(connection)


@pytest.fixture
def client(stack: Stack, engine: Engine) -> Iterator[Client]:
    """Speaks to the stack's API; whatever the test did, the invariants hold after it."""
    yield Client(stack.url, stack.key)
    assert broken(engine) == {}
