"""What is in Redis, and that a broker that is unavailable fails no caller."""

import base64
import json
import signal
import subprocess
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest
import redis

from orchestrator.broker.client import MAX_LISTED, Broker, make_app
from orchestrator.broker.messages import VERSION, Message, Outbound
from orchestrator.db.database import Database
from orchestrator.local import processes
from orchestrator.local.services import start_redis
from tests.conftest import Services
from tests.support.factories import a_run, a_spec, eventually
from tests.unit.broker.test_wire import FOREIGN, ID

QUEUE = "nobody-listens-to-this-one-queue"  # 32 characters, the maximum in a spec


@pytest.fixture
def store(services: Services) -> Iterator[redis.Redis]:
    """The Redis of the tests, cleaned of this test's queue afterwards."""
    with redis.Redis.from_url(services.redis_url) as client:
        yield client
        for key in client.scan_iter(f"{QUEUE}*"):
            client.delete(key)


@pytest.fixture
def broker(services: Services, store: redis.Redis) -> Broker:
    """A broker like that of the API."""
    return Broker(make_app(services.redis_url, publisher=True))


def _outbound(priority: int, queue: str = QUEUE) -> Outbound:
    message = Message(task_id=f"{uuid4()}.1", queue=queue, priority=priority, name="w/s#1")
    return Outbound(messages=[(message, ())])


@pytest.mark.parametrize("steps", [1, 40, 1000])
def test_no_message_is_larger_than_two_kib(
    database: Database, sent: list[Outbound], broker: Broker, store: redis.Redis, steps: int
) -> None:
    key = "k" * 58
    chain = [{"key": f"{key}_{n}", "uses": "noop"} for n in range(steps)]
    a_run(database, {"name": "w" * 100, "queue": QUEUE, "priority": 0, "steps": chain})

    broker.deliver(sent[-1])

    (name,) = store.keys(f"{QUEUE}*")
    (message,) = store.lrange(name, 0, -1)
    assert len(message) <= 2048
    assert json.loads(message)["headers"]["version"] == VERSION


def _pending(broker: Broker, queue: str = QUEUE) -> set[str] | None:
    pending = broker.pending([queue])
    return None if pending is None else pending[queue]


def test_a_higher_priority_is_taken_first(broker: Broker, store: redis.Redis) -> None:
    low, high = _outbound(2), _outbound(8)
    broker.deliver(low)
    broker.deliver(high)

    pending = _pending(broker)

    assert pending == {low.messages[0][0].task_id, high.messages[0][0].task_id}
    # Redis takes the list of the lowest number first; the separator is kombu's.
    assert sorted(store.keys(f"{QUEUE}*")) == [
        f"{QUEUE}\x06\x161".encode(), f"{QUEUE}\x06\x167".encode()
    ]  # fmt: skip


def test_all_queued_tasks_are_pending(broker: Broker) -> None:
    several = [_outbound(4) for _ in range(5)]
    for each in several:
        broker.deliver(each)

    assert _pending(broker) == set().union(*map(_ids, several))


def test_an_unavailable_broker_fails_no_caller_and_costs_little() -> None:
    broker = Broker(make_app(f"redis://127.0.0.1:{processes.free_port()}/0", publisher=True))
    outgoing = _outbound(4)
    outgoing.revoked = [f"{uuid4()}.1"]

    started = time.monotonic()
    broker.deliver(outgoing)
    broker.deliver(Outbound(revoked=outgoing.revoked))

    assert time.monotonic() - started < 5
    assert _pending(broker) is None
    assert not broker.ping()


@pytest.fixture
def freezing(tmp_path: Path) -> Iterator[tuple[Broker, subprocess.Popen[bytes]]]:
    """A broker and its own Redis, which signals suspend and resume."""
    port = processes.free_port()
    process = start_redis(tmp_path, port, "cold")
    yield Broker(make_app(f"redis://:cold@127.0.0.1:{port}/0", publisher=True)), process
    process.kill()
    process.wait()


def test_a_broker_that_hangs_blocks_no_caller_and_is_not_tried_for_a_moment(
    freezing: tuple[Broker, subprocess.Popen[bytes]],
) -> None:
    broker, process = freezing
    lost, resent = _outbound(4), _outbound(4)
    broker.deliver(_outbound(4))  # so that there are connections
    broker.deliver(Outbound(revoked=[f"{uuid4()}.1"]))

    process.send_signal(signal.SIGSTOP)
    assert _pending(broker) is None
    assert not broker.ping()
    broker.deliver(lost)
    process.send_signal(signal.SIGCONT)
    broker.deliver(resent)  # not tried: it was unavailable a moment ago

    assert _ids(resent).isdisjoint(eventually(lambda: _pending(broker)))
    assert broker.ping()

    def delivered() -> set[str] | None:
        broker.deliver(resent)
        return _pending(broker)

    eventually(delivered, until=lambda ids: ids is not None and ids >= _ids(resent))


def test_a_revoke_has_the_task_ids_and_the_signal(
    freezing: tuple[Broker, subprocess.Popen[bytes]],
) -> None:
    broker, _ = freezing
    ids = [f"{uuid4()}.1", f"{uuid4()}.2"]
    with redis.Redis.from_url(broker._app.conf.broker_url).pubsub() as pubsub:
        pubsub.psubscribe("*pidbox*")
        pubsub.get_message(timeout=5)
        broker.deliver(Outbound(revoked=ids))
        message = pubsub.get_message(timeout=5)

    assert message is not None
    body = json.loads(base64.b64decode(json.loads(message["data"])["body"]))
    assert body["method"] == "revoke"
    assert body["arguments"] == {"task_id": ids, "terminate": True, "signal": "SIGUSR1"}


def test_the_settings_are_those_that_were_measured_to_hold() -> None:
    """Each of them was chosen because its neighbour lost, repeated or delayed work."""
    publisher, worker = (make_app("redis://", publisher=each).conf for each in (True, False))

    for conf in (publisher, worker):
        assert not conf.task_acks_late
        assert conf.worker_disable_prefetch
        assert conf.worker_prefetch_multiplier == 1
        assert conf.task_ignore_result
        assert conf.task_inherit_parent_priority
        assert not conf.worker_hijack_root_logger
        assert conf.worker_enable_remote_control
        assert conf.task_publish_retry
        assert not conf.task_send_sent_event
        assert not conf.worker_cancel_long_running_tasks_on_connection_loss
        assert conf.broker_connection_retry_on_startup
        assert conf.broker_connection_max_retries is None
        assert conf.task_publish_retry_policy == {"max_retries": 0}
        assert conf.broker_connection_timeout == 1
    alike = {
        "queue_order_strategy": "priority",
        "priority_steps": list(range(10)),
        "health_check_interval": 5,
        "socket_connect_timeout": 0.5,
        "socket_keepalive": True,
        "max_retries": 1,
        "interval_start": 0,
        "interval_max": 0.1,
        "visibility_timeout": 3600,
    }
    assert publisher.broker_transport_options == {**alike, "socket_timeout": 0.5}
    assert worker.broker_transport_options == {**alike, "socket_timeout": 5}


def _ids(outgoing: Outbound) -> set[str]:
    return {head.task_id for head, _ in outgoing.messages}


def test_a_run_of_a_thousand_steps_sends_one_short_chain(
    database: Database, sent: list[Outbound]
) -> None:
    a_run(database, a_spec(steps=1000))

    ((head, chain),) = sent[-1].messages
    assert [each.name for each in (head, *chain)] == [
        "work/s1#1", "work/s2#1", "work/s3#1", "work/s4#1"
    ]  # fmt: skip


@pytest.mark.parametrize("text", FOREIGN, ids=lambda text: repr(text[:40]))
def test_foreign_messages_hide_no_task(broker: Broker, store: redis.Redis, text: bytes) -> None:
    ours = _outbound(4)
    store.lpush(QUEUE, text)
    broker.deliver(ours)
    store.lpush(f"{QUEUE}\x06\x165", text)

    assert _ids(ours) <= (_pending(broker) or set()) <= {*_ids(ours), ID}


@pytest.mark.parametrize("level", range(10))
def test_a_key_of_another_type_is_replaced_by_the_next_message(
    broker: Broker, store: redis.Redis, level: int
) -> None:
    queue = f"new-{level}"  # that no connection has declared
    name = f"{queue}\x06\x16{level}" if level else queue
    store.hset(name, "a", "b")
    first, second = _outbound(9 - level, queue), _outbound(9 - level, queue)
    broker.deliver(first)
    before = _pending(broker, queue)
    store.delete(name)
    store.set(name, "x")
    broker.deliver(second)
    after = _pending(broker, queue)
    store.delete(name)
    store.set(name, "x")

    assert (before, after, _pending(broker, queue)) == (_ids(first), _ids(second), set())
    store.delete(name)


def test_sets_of_bindings_that_are_none_stop_no_message(broker: Broker, store: redis.Redis) -> None:
    ours = _outbound(4)
    for name in (f"_kombu.binding.{QUEUE}", f"_kombu.binding_permanent.{QUEUE}"):
        store.set(name, "x")
    broker.deliver(ours)
    for name in (f"_kombu.binding.{QUEUE}", f"_kombu.binding_permanent.{QUEUE}"):
        store.delete(name)
        store.sadd(name, "x", f"{QUEUE}\x06\x16\x06\x16elsewhere")

    again = _outbound(4)
    broker.deliver(again)

    assert _pending(broker) == _ids(ours) | _ids(again)
    assert broker.pending(["elsewhere"]) == {"elsewhere": set()}
    store.delete(f"_kombu.binding.{QUEUE}", f"_kombu.binding_permanent.{QUEUE}")


def test_what_is_read_of_a_list_is_bounded(broker: Broker, store: redis.Redis) -> None:
    ours = _outbound(4)
    name = f"{QUEUE}\x06\x165"
    for _ in range(30):
        store.lpush(name, *[b"[]"] * 10_000)
    store.lpush(name, b"x" * 200_000_000)
    broker.deliver(ours)

    tracemalloc.start()
    pending = _pending(broker)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert pending == _ids(ours)
    assert peak < 20_000_000


def test_a_message_behind_a_flood_is_sent_again_to_its_end(
    broker: Broker, store: redis.Redis
) -> None:
    hidden, again = _outbound(4), _outbound(4)
    broker.deliver(hidden)
    store.lpush(f"{QUEUE}\x06\x165", *[b"[]"] * MAX_LISTED)
    before = _pending(broker)
    broker.deliver(again)

    assert before == set()
    assert _pending(broker) == _ids(again)
