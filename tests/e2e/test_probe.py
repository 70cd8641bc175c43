"""A worker that no longer consumes is restarted by its liveness probe."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import redis
from sqlalchemy import make_url

from orchestrator.client import Client
from orchestrator.local.stack import Stack
from tests.chaos.proxy import Proxy
from tests.support.factories import eventually
from tests.support.processes import a_worker, ended, kill, lines_in, submit, the_worker

_HANDLERS = "tests.support.handlers"


@contextmanager
def _proxied(url: str) -> Iterator[tuple[Proxy, str]]:
    """A proxy to Redis that can be cut, and its URL."""
    proxy = Proxy(make_url(url).port or 6379)
    try:
        yield proxy, make_url(url).set(port=proxy.port).render_as_string(hide_password=False)
    finally:
        proxy.end()


def _redis(stack: Stack) -> str:
    return stack.environ["ORCHESTRATOR_REDIS_URL"]


def _pid(stack: Stack, name: str) -> int:
    worker = eventually(lambda: the_worker(stack, name), within=60)
    return worker["pid"] if worker else 0


def _spec(queue: str, uses: str = "noop") -> dict[str, Any]:
    return {"name": queue, "queue": queue, "steps": [{"key": "s", "uses": uses}]}


def test_workers_that_consume_nothing_restart_and_take_what_waits(
    stack: Stack, client: Client, tmp_path: Path
) -> None:
    options: dict[str, Any] = {"once": False, "deaf_after": "3s", "data_dir": str(tmp_path)}
    faults = ("cancelled", "stuck")
    with (
        a_worker(stack, "cancelled", steps=f"{_HANDLERS},tests.support.sabotage", **options),
        a_worker(stack, "stuck", "--pool", "threads", **options),
    ):
        for name in faults:  # until then it receives no broadcast
            ended(client, submit(client, _spec(name))["id"], within=60)
        before = [_pid(stack, name) for name in faults]
        order = ["cancel_consumer", {"queue": "cancelled"}]
        (tmp_path / "sabotage").write_text(json.dumps(order))
        ended(client, submit(client, _spec("stuck", f"{_HANDLERS}.stop_the_world"))["id"])
        eventually(lambda: not (tmp_path / "sabotage").exists())
        runs = [submit(client, _spec(name)) for name in faults]

        assert [ended(client, run["id"], within=60)["state"] for run in runs] == ["succeeded"] * 2
        eventually(
            lambda: [_pid(stack, name) for name in faults],
            until=lambda after: set(before).isdisjoint(after),
            within=60,
        )

    for name in faults:
        assert "exit status 1" in (tmp_path / f"{name}.log").read_text()


def test_a_worker_whose_redis_was_away_for_long_goes_on(
    stack: Stack, client: Client, say: Path
) -> None:
    params = {"say": str(say), "go": f"{say}.go"}
    with (
        _proxied(_redis(stack)) as (proxy, url),
        a_worker(stack, "patient", redis_url=url, deaf_after="4s") as worker,
    ):
        run = submit(client, _spec("patient", "tests.support.handlers.hang_until"), params=params)
        lines_in(say, within=60)
        proxy.refuse()
        time.sleep(7)  # after its third try, Celery by itself would wait for six more seconds
        proxy.pass_on()
        following = client.submit("patient", params)
        lines_in(say, lines=2)
        Path(params["go"]).touch()

        assert ended(client, following["id"])["state"] == "succeeded"
        assert ended(client, run["id"])["steps"][0]["attempt"] == 1
        assert worker.poll() is None  # the probe did not end it


def test_probes_count_as_no_work_and_are_gone_with_their_worker(
    stack: Stack, client: Client, say: Path
) -> None:
    with (
        redis.Redis.from_url(_redis(stack)) as broker,
        a_worker(stack, "probed", "--concurrency", "1", deaf_after="2s") as worker,
    ):
        spec = _spec("probed", "tests.support.handlers.hang")
        run = submit(client, spec, params={"say": str(say)})
        lines_in(say, within=60)
        # Its only slot is taken: the probe stays in its list, which proves nothing.
        name = eventually(lambda: next(iter(broker.keys("probe.probed*")), None))
        eventually(lambda: broker.ttl(name) < 117)
        assert worker.poll() is None
        kill(worker.pid)

        assert broker.ttl(name) > 0  # it expires
        client.cancel(run["id"], force=True)
        assert ended(client, run["id"])["state"] == "cancelled"
