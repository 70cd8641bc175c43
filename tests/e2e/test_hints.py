"""Messages are hints: what Redis holds, and does not hold, while real workers run."""

import os
import re
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from redis import Redis

from orchestrator.client import Client
from orchestrator.local.stack import Stack
from tests.conftest import Services
from tests.support.factories import a_spec, eventually
from tests.support.processes import LEASE, a_worker, ended, lines_in, submit


@pytest.fixture
def redis(services: Services) -> Iterator["Redis[bytes]"]:
    """A plain connection to the broker."""
    with Redis.from_url(services.redis_url) as connection:
        yield connection


def _one(name: str, uses: str) -> dict[str, object]:
    return {"name": name, "steps": [{"key": "s", "uses": uses}]}


def test_redis_holds_no_unacknowledged_message_of_a_running_step(
    client: Client, say: Path, redis: "Redis[bytes]"
) -> None:
    run = submit(client, _one("unacked", "tests.support.handlers.hang"), params={"say": str(say)})
    lines_in(say)

    left = [redis.hlen("unacked"), redis.zcard("unacked_index")]

    client.cancel(run["id"], force=True)
    assert ended(client, run["id"])["state"] == "cancelled"
    assert left == [0, 0]


def test_runs_leave_nothing_in_redis(client: Client, redis: "Redis[bytes]") -> None:
    client.apply(a_spec("traceless", steps=5))
    before = _keys(redis)

    ids = [client.submit("traceless", {})["id"] for _ in range(20)]
    states = [ended(client, run_id)["state"] for run_id in ids]

    assert states == ["succeeded"] * 20
    eventually(lambda: _keys(redis) - before, until=lambda more: not more)


def test_user_code_that_holds_the_interpreter_keeps_its_step(client: Client, say: Path) -> None:
    run = submit(
        client, _one("greedy", "tests.support.handlers.hold_interpreter"), params={"say": str(say)}
    )

    run = ended(client, run["id"], within=30)

    assert run["state"] == "succeeded"
    assert run["steps"][0]["attempt"] == 1
    assert run["steps"][0]["result"] > LEASE.total_seconds()


def test_a_worker_takes_no_message_before_it_can_execute_it(
    client: Client, say: Path, redis: "Redis[bytes]"
) -> None:
    spec = _one("taking", "tests.support.handlers.hang")
    slots = [submit(client, spec, params={"say": str(say)}) for _ in range(4)]
    lines_in(say, lines=4)

    more = [submit(client, spec, params={"say": str(say)}) for _ in range(3)]
    eventually(
        lambda: sum(map(redis.llen, redis.scan_iter("default*"))), until=lambda left: left == 3
    )

    for run in more + slots:
        client.cancel(run["id"], force=True)
    assert {ended(client, run["id"])["state"] for run in more + slots} == {"cancelled"}
    assert len(lines_in(say)) == 4


def _waiting(redis: "Redis[bytes]") -> int:
    """The number of queued messages, of all priorities."""
    return sum(redis.llen(name) for name in redis.scan_iter("default*"))


def _keys(redis: "Redis[bytes]") -> set[bytes]:
    """All keys but the lists of messages, which exist only while messages wait."""
    return {key for key in redis.scan_iter() if not key.startswith(b"default")}


def test_a_child_holds_no_connection_that_its_worker_polls(stack: Stack, client: Client) -> None:
    submit(client, _one("forked", "noop") | {"queue": "forked"})
    with a_worker(stack, "forked", "--concurrency", "1") as worker:
        ended(client, client.submit("forked", {})["id"], within=60)
        parent = psutil.Process(worker.pid)
        (first,) = parent.children()
        first.kill()  # the next child is forked from a connected worker
        (child,) = eventually(parent.children, until=lambda children: children not in ([], [first]))

        assert ended(client, client.submit("forked", {})["id"])["state"] == "succeeded"
        polled = _polled(worker.pid) & _connections(worker.pid)
        assert polled
        assert polled.isdisjoint(_connections(child.pid))


def _polled(pid: int) -> set[int]:
    """The inodes of everything that a worker's event loop polls."""
    files = [Path(f"/proc/{pid}/fdinfo/{each}") for each in os.listdir(f"/proc/{pid}/fdinfo")]
    fdinfo = "".join(each.read_text() for each in files)
    return {
        int(inode, 16) for inode in re.findall(r"^tfd:.* ino:([0-9a-f]+)", fdinfo, re.MULTILINE)
    }


def _connections(pid: int) -> set[int]:
    """The inodes of the TCP connections that a process has open."""
    open_files = [each.fd for each in psutil.Process(pid).net_connections("tcp")]
    return {Path(f"/proc/{pid}/fd/{each}").stat().st_ino for each in open_files}
