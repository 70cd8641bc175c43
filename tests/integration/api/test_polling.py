"""Clients that poll: their connections outlast the pauses between two requests.

The bench `polls` has a thousand of them, a few are enough here.
"""

from collections.abc import Iterator

import pytest

from config.settings import Settings
from tests.support import node, polling
from tests.support.http_attacks import ServedApi, serve


@pytest.fixture(scope="module")
def api(settings: Settings) -> Iterator[ServedApi]:
    """The API under gunicorn."""
    with serve(settings) as served:
        yield served


@pytest.mark.row("polls every 2 s: requests, httpx and node's fetch keep their connection")
@pytest.mark.parametrize(
    "client",
    ["requests", "httpx", pytest.param("fetch", marks=node.needed)],
)
def test_a_client_that_polls_keeps_its_connection(api: ServedApi, client: str) -> None:
    polls = polling.CLIENTS[client](f"{api.url}/healthz", 4, 2.5)

    assert polls == polling.Polls(connections=1)
