"""Clients that poll an address with pauses: how many connections they take, and what fails."""

import json
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import httpx
import requests

from tests.support import node


@dataclass
class Polls:
    """What became of the polls of one client."""

    connections: int = 0
    failures: list[str] = field(default_factory=list)


def by_requests(address: str, polls: int, pause: float) -> Polls:
    """Poll with a session of requests."""
    with requests.Session() as session:
        result = _poll(lambda: session.get(address, timeout=30), polls, pause)
        pools = session.get_adapter(address).poolmanager.pools
        result.connections = sum(pools[key].num_connections for key in pools.keys())  # noqa: SIM118
    return result


def by_httpx(address: str, polls: int, pause: float) -> Polls:
    """Poll with a client of httpx."""
    connections = set()

    def get() -> httpx.Response:
        answer = client.get(address)
        connections.add(answer.extensions["network_stream"].get_extra_info("client_addr"))
        return answer

    with httpx.Client(timeout=30) as client:
        result = _poll(get, polls, pause)
    result.connections = len(connections)
    return result


def by_fetch(address: str, polls: int, pause: float) -> Polls:
    """Poll with node's fetch."""
    within = polls * (pause + 1) + 30
    return Polls(**json.loads(node.run("poll.mjs", address, f"{polls}", f"{pause}", within=within)))


CLIENTS: Mapping[str, Callable[[str, int, float], Polls]] = {
    "requests": by_requests,
    "httpx": by_httpx,
    "fetch": by_fetch,
}


def poll_by_all(address: str, polls: int, pause: float) -> dict[str, Polls]:
    """Let all clients poll at the same time."""
    with ThreadPoolExecutor(len(CLIENTS)) as pool:
        results = {
            name: pool.submit(client, address, polls, pause) for name, client in CLIENTS.items()
        }
    return {name: each.result() for name, each in results.items()}


def _poll(get: Callable[[], Any], polls: int, pause: float) -> Polls:
    result = Polls()
    for number in range(polls):
        time.sleep(pause if number else 0)
        try:
            status = get().status_code
        except (requests.RequestException, httpx.HTTPError) as error:
            result.failures.append(repr(error))
        else:
            if status != 200:
                result.failures.append(str(status))
    return result
