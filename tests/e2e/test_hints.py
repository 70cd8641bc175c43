"""A message is only a hint: what is in Redis, and what is not, while real workers work."""

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
from tests.support.processes import LEASE, a_worker, ended, said, submit


@pytest.fixture
def redis(services: Services) -> Iterator["Redis[bytes]"]:
    """The broker, asked directly."""
    with Redis.from_url(services.redis_url) as connection:
        yield connection


def _one(name: str, uses: str) -> dict[str, object]:
    return {"name": name, "steps": [{"key": "s", "uses": uses}]}


def test_redis_keeps_nothing_to_deliver_again_of_a_step_that_runs(
    client: Client, say: Path, redis: "Redis[bytes]"
) -> None:
    run = submit(client, _one("unacked", "tests.support.handlers.hang"), params={"say": str(say)})
    said(say)

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
    hanging = _one("taking", "tests.support.handlers.hang")
    slots = [submit(client, hanging, params={"say": str(say)}) for _ in range(4)]
    said(say, lines=4)

    more = [submit(client, hanging, params={"say": str(say)}) for _ in range(3)]
    eventually(
        lambda: sum(map(redis.llen, redis.scan_iter("default*"))), until=lambda left: left == 3
    )

    for run in more + slots:
        client.cancel(run["id"], force=True)
    assert {ended(client, run["id"])["state"] for run in more + slots} == {"cancelled"}
    assert len(said(say)) == 4


def _waiting(redis: "Redis[bytes]") -> int:
    """How many messages nobody has taken, of all priorities."""
    return sum(redis.llen(name) for name in redis.scan_iter("default*"))


def _keys(redis: "Redis[bytes]") -> set[bytes]:
    """What is kept, but for lists of messages, which are there only while something waits."""
    return {key for key in redis.scan_iter() if not key.startswith(b"default")}


def test_a_child_holds_no_connection_from_which_its_worker_waits_for_news(
    stack: Stack, client: Client
) -> None:
    submit(client, _one("forked", "noop") | {"queue": "forked"})
    with a_worker(stack, "forked", "--concurrency", "1") as worker:
        ended(client, client.submit("forked", {})["id"], within=60)
        parent = psutil.Process(worker.pid)
        (first,) = parent.children()
        first.kill()  # the next one is forked off a worker that is connected
        (child,) = eventually(parent.children, until=lambda found: found not in ([], [first]))

        assert ended(client, client.submit("forked", {})["id"])["state"] == "succeeded"
        watched = _watched(worker.pid) & _connections(worker.pid)
        assert watched
        assert watched.isdisjoint(_connections(child.pid))


def _watched(pid: int) -> set[int]:
    """The inodes of all from which a worker's loop waits for news."""
    files = [Path(f"/proc/{pid}/fdinfo/{each}") for each in os.listdir(f"/proc/{pid}/fdinfo")]
    told = "".join(each.read_text() for each in files)
    return {int(found, 16) for found in re.findall(r"^tfd:.* ino:([0-9a-f]+)", told, re.MULTILINE)}


def _connections(pid: int) -> set[int]:
    """The inodes of the connections over TCP that a process has open."""
    open_files = [each.fd for each in psutil.Process(pid).net_connections("tcp")]
    return {Path(f"/proc/{pid}/fd/{each}").stat().st_ino for each in open_files}
