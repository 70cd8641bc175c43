"""What somebody can put into Redis, against real workers: none of it ends or misleads one.

`python -m tests.soak.hostile_redis` is the long form.
"""

import json
from base64 import b64decode, b64encode
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import redis

from orchestrator.broker import wire
from orchestrator.broker.client import make_app
from orchestrator.client import Client
from orchestrator.local.stack import Stack
from tests.soak import hostile_redis
from tests.support.factories import eventually
from tests.support.processes import a_worker, ended, lines_in, submit, the_worker
from tests.unit.broker.test_wire import FOREIGN, FOREIGN_COMMANDS

QUEUE = "hostile"
LISTS = [QUEUE, *(f"{QUEUE}\x06\x16{level}" for level in range(1, 10))]
NORMAL = LISTS[5]
CHANNEL = "/0.celery.pidbox"
HANDLERS = "tests.support.handlers"


@pytest.fixture(scope="module")
def worker(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A worker of one child that is not started again."""
    with a_worker(stack, QUEUE, "--concurrency", "1") as process:
        eventually(lambda: the_worker(stack, QUEUE), within=60)
        yield process


@pytest.fixture
def broker(stack: Stack) -> Iterator[redis.Redis]:
    """The Redis of the stack."""
    with redis.Redis.from_url(stack.environ["ORCHESTRATOR_REDIS_URL"]) as connection:
        yield connection


def _spec(name: str, *uses: str, queue: str = QUEUE) -> dict[str, Any]:
    steps = [{"key": f"s{number}", "uses": each} for number, each in enumerate(uses)]
    needs = [{"needs": [f"s{number - 1}"]} if number else {} for number in range(len(steps))]
    return {
        "name": name, "queue": queue,
        "steps": [step | need for step, need in zip(steps, needs, strict=True)],
    }  # fmt: skip


def _still_works(client: Client, worker: Any) -> None:
    run = submit(client, _spec("still-works", "noop"))
    assert ended(client, run["id"], within=60)["state"] == "succeeded"
    assert worker.poll() is None


def _dropped(stack: Stack) -> int:
    reported = the_worker(stack, QUEUE)
    return reported["usage"]["dropped_messages"] if reported else 0


def _rewrite(message: bytes, headers: dict[str, Any], embed: dict[str, Any]) -> bytes:
    """The message with other headers, and other fields beside its arguments."""
    document = json.loads(message)
    body = json.loads(b64decode(document["body"]))
    body[2] |= embed
    document["body"] = b64encode(json.dumps(body).encode()).decode()
    document["headers"] |= headers
    return json.dumps(document).encode()


def test_foreign_messages_end_no_worker_and_are_counted(
    stack: Stack, client: Client, worker: Any, broker: redis.Redis
) -> None:
    before = _dropped(stack)
    for number, text in enumerate(FOREIGN):
        broker.lpush(LISTS[number % len(LISTS)], text)

    _still_works(client, worker)

    eventually(lambda: _dropped(stack) >= before + len(FOREIGN) - 5)
    assert not any(map(broker.llen, LISTS))


def test_foreign_commands_end_no_worker(
    stack: Stack, client: Client, worker: Any, broker: redis.Redis
) -> None:
    before = _dropped(stack)
    for text in FOREIGN_COMMANDS:
        broker.publish(CHANNEL, text)

    eventually(lambda: _dropped(stack) >= before + len(FOREIGN_COMMANDS))
    _still_works(client, worker)


def test_commands_that_change_a_worker_are_refused_and_those_that_read_are_answered(
    stack: Stack, client: Client, worker: Any
) -> None:
    control = make_app(stack.environ["ORCHESTRATOR_REDIS_URL"], publisher=True).control
    control.pool_shrink(1)
    control.pool_grow(3)
    control.cancel_consumer(QUEUE)
    control.add_consumer("another")
    control.time_limit("execute_step", soft=0.01, hard=0.05)
    control.rate_limit("execute_step", "1/h")
    control.broadcast("disable_events")
    control.broadcast("shutdown")

    _still_works(client, worker)
    name = (the_worker(stack, QUEUE) or {})["name"]
    inspect = control.inspect([name], timeout=5)
    assert inspect.ping() == {name: {"ok": "pong"}}
    assert inspect.stats()[name]["pool"]["max-concurrency"] == 1
    assert [each["name"] for each in inspect.active_queues()[name]] == [QUEUE]
    assert inspect.registered()[name]
    assert inspect.conf()[name]
    assert inspect.active()[name] == inspect.reserved()[name] == inspect.revoked()[name] == []


def test_a_revoke_of_somebody_kills_no_step(
    stack: Stack, client: Client, worker: Any, say: Path
) -> None:
    params = {"say": str(say), "go": f"{say}.go"}
    run = submit(client, _spec("revoked", f"{HANDLERS}.hang_until"), params=params)
    lines_in(say)
    control = make_app(stack.environ["ORCHESTRATOR_REDIS_URL"], publisher=True).control
    name = (the_worker(stack, QUEUE) or {})["name"]
    (task,) = control.inspect([name], timeout=5).active()[name]
    control.revoke(task["id"], terminate=True, signal="SIGKILL")
    control.broadcast("terminate", arguments={"signal": "SIGKILL", "task_id": task["id"]})
    Path(params["go"]).touch()

    assert ended(client, run["id"])["state"] == "succeeded"
    assert len(lines_in(say)) == 1


@pytest.mark.parametrize("chain", ["forged", "malformed"])
def test_an_altered_message_runs_its_step_once_and_as_the_row_says(
    client: Client, worker: Any, broker: redis.Redis, say: Path, chain: str
) -> None:
    busy = {"say": f"{say}.busy", "go": f"{say}.go"}
    holder = submit(client, _spec("holder", f"{HANDLERS}.hang_until"), params=busy)
    lines_in(Path(busy["say"]))
    params = {"say": str(say), "go": busy["go"]}
    uses = (f"{HANDLERS}.hang_until", "noop")
    run = submit(client, _spec("altered", *uses), params=params)
    message = eventually(lambda: broker.lindex(NORMAL, 0))
    assert message is not None
    other = wire.signature(f"{uuid4()}.1", "hostile", "n")
    altered = _rewrite(
        message,
        {"timelimit": [0.05, 0.01], "expires": "2020-01-01T00:00:00+00:00", "retries": 99},
        {"chain": [other] if chain == "forged" else ["x"], "errbacks": ["x"], "callbacks": ["x"]},
    )
    with broker.pipeline() as pipeline:
        pipeline.lrem(NORMAL, 0, message).lpush(NORMAL, altered)
        pipeline.execute()
    Path(params["go"]).touch()

    finished = ended(client, run["id"], within=30)
    assert finished["state"] == "succeeded"
    assert [step["attempt"] for step in finished["steps"]] == [1, 1]
    assert len(lines_in(say)) == 1
    assert ended(client, holder["id"])["state"] == "succeeded"
    assert worker.poll() is None


def test_a_step_runs_only_on_a_worker_of_its_queue(
    client: Client, worker: Any, broker: redis.Redis
) -> None:
    run = submit(client, _spec("elsewhere", "noop", queue="gpu-of-nobody"))
    message = eventually(lambda: broker.rpop("gpu-of-nobody\x06\x165"))
    broker.lpush(NORMAL, message)

    _still_works(client, worker)

    step = client.run(run["id"])["steps"][0]
    assert (step["state"], step["attempt"]) == ("queued", 0)
    assert eventually(lambda: broker.llen("gpu-of-nobody\x06\x165")) == 1  # it is sent again
    client.cancel(run["id"])


@pytest.mark.parametrize("level", [0, 5, 9])
def test_a_key_of_another_type_is_replaced(
    client: Client, worker: Any, broker: redis.Redis, level: int
) -> None:
    broker.delete(LISTS[level])
    broker.hset(LISTS[level], "a", "b")
    binding = f"_kombu.binding.{QUEUE}"
    broker.delete(binding, "_kombu.binding.celery.pidbox")
    broker.set(binding, "x")
    broker.set("_kombu.binding.celery.pidbox", "x")
    broker.set("unacked", "x")

    _still_works(client, worker)

    assert broker.type(LISTS[level]) == b"none"
    broker.delete(binding, "_kombu.binding.celery.pidbox", "unacked")


def test_a_large_element_is_not_kept_in_memory(
    client: Client, worker: Any, broker: redis.Redis
) -> None:
    large = b"x" * 100_000_000
    broker.lpush(NORMAL, large)
    broker.publish(CHANNEL, large[:10_000_000])

    _still_works(client, worker)

    status = Path(f"/proc/{worker.pid}/status").read_text()
    peak = next(line for line in status.splitlines() if line.startswith("VmHWM"))
    assert int(peak.split()[1]) < 300_000  # KB


def test_thousands_of_foreign_messages_end_no_worker_and_delay_no_other_queue(
    stack: Stack, client: Client, worker: Any, broker: redis.Redis
) -> None:
    ping = {"method": "ping", "arguments": {}}
    command = json.dumps({"body": b64encode(json.dumps(ping).encode()).decode()})
    with broker.pipeline(transaction=False) as pipeline:
        for _ in range(20):
            pipeline.lpush(LISTS[0], *[b"[]"] * 5000)
        for _ in range(5000):
            pipeline.publish(CHANNEL, command)
        pipeline.execute()
    elsewhere = submit(client, _spec("not-delayed", "noop", queue="default"))

    assert ended(client, elsewhere["id"])["state"] == "succeeded"
    _still_works(client, worker)


def test_workers_under_load_survive_random_messages_and_commands(
    stack: Stack, broker: redis.Redis, tmp_path: Path
) -> None:
    findings = hostile_redis.attack(stack, tmp_path, messages=2000, seed=18)

    broker.delete("unacked", "_kombu.binding.celery.pidbox")
    assert findings.faults == []


def test_a_worker_starts_among_keys_of_other_types(
    stack: Stack, client: Client, broker: redis.Redis
) -> None:
    names = [f"late{name.removeprefix(QUEUE)}" for name in LISTS]
    names += [f"_kombu.{kind}.late" for kind in ("binding", "binding_permanent")]
    for name in names:
        broker.set(name, "x")

    with a_worker(stack, "late") as worker:
        run = submit(client, _spec("late", "noop", queue="late"))
        assert ended(client, run["id"], within=60)["state"] == "succeeded"
        late = the_worker(stack, "late")
        assert late is not None
        probes = wire.probe_queue(late["name"], late["pid"])
        broker.delete(probes)
        broker.hset(probes, "a", "b")
        eventually(lambda: broker.type(probes) != b"hash", within=30)
        assert worker.poll() is None

    broker.delete(*names)


def test_a_pool_that_has_shrunk_grows_again(stack: Stack, client: Client, tmp_path: Path) -> None:
    steps = f"{HANDLERS},tests.support.sabotage"
    with a_worker(stack, "shrunk", steps=steps, data_dir=str(tmp_path)) as worker:
        eventually(lambda: the_worker(stack, "shrunk"), within=60)
        (tmp_path / "sabotage").write_text(json.dumps(["pool_shrink", {"n": 2}]))
        eventually(lambda: not (tmp_path / "sabotage").exists())

        run = submit(client, _spec("shrunk", "noop", queue="shrunk"))

        assert ended(client, run["id"], within=60)["state"] == "succeeded"
        eventually(lambda: (the_worker(stack, "shrunk") or {})["capacity"] == 2)
        assert worker.poll() is None
