"""A stack whose Redis can be taken away."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from sqlalchemy import Engine

from orchestrator import local
from orchestrator.client import Client
from orchestrator.stack import Stack
from tests.chaos.invariants import broken
from tests.conftest import Services
from tests.processes import running

_PASSWORD = "chaos"


class FragileRedis:
    """A Redis on a fixed port that can be killed and started again, empty."""

    def __init__(self, directory: Path) -> None:
        self._directory, self._port = directory, local.free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    @property
    def url(self) -> str:
        """Where it answers, or did."""
        return f"redis://:{_PASSWORD}@127.0.0.1:{self._port}/0"

    def start(self) -> None:
        """Start it; it has forgotten everything."""
        self._process = local.start_redis(self._directory, self._port, _PASSWORD)

    def kill(self) -> None:
        """Take it away without a word."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def flush(self) -> None:
        """Let it forget everything."""
        with redis.Redis.from_url(self.url) as client:
            client.flushall()


@pytest.fixture(scope="package")
def fragile_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FragileRedis]:
    """The Redis of the stack."""
    server = FragileRedis(tmp_path_factory.mktemp("redis"))
    yield server
    server.kill()


@pytest.fixture(scope="package")
def stack(
    services: Services, fragile_redis: FragileRedis, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stack]:
    """API, scheduler and two workers."""
    directory = tmp_path_factory.mktemp("chaos")
    with running(directory, services.database_url, fragile_redis.url) as stack:
        yield stack


@pytest.fixture
def client(stack: Stack, engine: Engine) -> Iterator[Client]:
    """Speaks to the stack's API; whatever the test did, the invariants hold after it."""
    yield Client(stack.url, stack.key)
    assert broken(engine) == {}
