"""Mutated messages, commands and signed addresses, at an API and workers under normal load.

python -m tests.soak.hostile_redis --messages 100000 --seed 18

One in ten goes to the API: a forged address, token or key. The others are in Redis. Fails when a
worker ends, when a handler runs without the claim of an attempt or twice for one, when a forgery is
taken, when a lost message is not sent again in time, or when an invariant is broken.
"""

import argparse
import json
import random
import sys
import time
from base64 import b64decode, b64encode
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event, Thread
from typing import Any

import redis
from celery.worker.control import Panel
from rich.console import Console
from sqlalchemy import Engine, create_engine, text

from config.settings import PREFIX
from orchestrator.client import Client
from orchestrator.local.stack import Stack
from orchestrator.maintenance.sweeps import UNCLAIMED
from tests.chaos.invariants import broken
from tests.soak.stacks import own_stack
from tests.support.factories import eventually
from tests.support.forgeries import locks
from tests.unit.broker.test_wire import FOREIGN, FOREIGN_COMMANDS

console = Console(width=120, highlight=False)
CHANNEL = "/0.celery.pidbox"
BATCH = 50  # messages in one pipeline
MAX_WAITING = 1000  # messages in a list before the next batch
FORGERIES = 10  # one of so many is for the API
RUNS_OPEN = 8  # of the normal load
SLOWNESS = 10.0  # seconds that a loaded host may add to a sweep of one second
SWEEP = 1.0
_HANDLERS = "tests.support.handlers"
_SEPARATOR = "\x06\x16"
_LISTS = ["default", *(f"default{_SEPARATOR}{level}" for level in range(1, 10))]
_LOST = f"nobody{_SEPARATOR}5"
_IDS = """
    SELECT task_id FROM steps WHERE task_id IS NOT NULL ORDER BY random() LIMIT 200
"""
_CLAIMED = "SELECT step_id || ' ' || number FROM attempts"
_OPEN = "SELECT count(*) FROM runs WHERE finished_at IS NULL AND workflow = 'load'"
_ENDS = "SELECT state, count(*) FROM runs WHERE workflow = 'load' GROUP BY state"


@dataclass
class Findings:
    """What was sent, and what came of it."""

    sent: Counter[str] = field(default_factory=Counter)  # to Redis
    forged: Counter[str] = field(default_factory=Counter)  # to the API
    resent_after: list[float] = field(default_factory=list)  # seconds until a lost one came again
    faults: list[str] = field(default_factory=list)


class Attacker:
    """Writes to Redis as somebody who knows our messages, the ids in them, and Celery."""

    def __init__(self, broker: "redis.Redis[bytes]", message: bytes, seed: int) -> None:
        self._broker, self._chance = broker, random.Random(seed)
        self._message = message
        self.ids: list[str] = []
        self._kinds: dict[str, tuple[int, Callable[[Any], None]]] = {
            "foreign message": (20, self._foreign),
            "mutated message": (35, self._mutated),
            "altered message": (15, self._altered),
            "foreign command": (10, self._foreign_command),
            "mutated command": (8, self._mutated_command),
            "command": (11, self._command),
            "key of a wrong type": (1, self._wrong_type),
        }

    def send(self, count: int, sent: Counter[str]) -> None:
        """Send so many messages of random kinds."""
        names = list(self._kinds)
        weights = [self._kinds[name][0] for name in names]
        with self._broker.pipeline(transaction=False) as pipeline:
            for name in self._chance.choices(names, weights, k=count):
                self._kinds[name][1](pipeline)
                sent[name] += 1
            pipeline.execute(raise_on_error=False)  # one pushes to a key of a wrong type

    def waiting(self) -> int:
        """How many messages the longest list has."""
        with self._broker.pipeline(transaction=False) as pipeline:
            for name in _LISTS:
                pipeline.llen(name)
            sizes = pipeline.execute(raise_on_error=False)
        return max(size for size in sizes if isinstance(size, int))

    def _push(self, pipeline: Any, message: bytes) -> None:
        pipeline.lpush(self._chance.choice(_LISTS), message)

    def _foreign(self, pipeline: Any) -> None:
        large = [b"x" * 2_000_000] if self._chance.random() < 0.002 else []
        self._push(pipeline, self._chance.choice(large or FOREIGN))

    def _mutated(self, pipeline: Any) -> None:
        self._push(pipeline, self._mutate(self._message))

    def _altered(self, pipeline: Any) -> None:
        """A whole message of a step of ours, claimed or not, with options of its own."""
        document = json.loads(self._message)
        body = json.loads(b64decode(document["body"]))
        headers, embed = document["headers"], body[2]
        headers["id"] = self._chance.choice(self.ids)
        options: list[tuple[dict[str, Any], str, Any]] = [
            (headers, "timelimit", [0.001, 0.001]), (headers, "expires", "2001-01-01T00:00:00"),
            (headers, "eta", "2090-01-01T00:00:00"), (headers, "retries", 10**9),
            (headers, "task", "celery.backend_cleanup"), (headers, "version", 7),
            (headers, "shadow", "\x1b[2J"), (headers, "root_id", self._chance.choice(self.ids)),
            (embed, "chain", ["x"]), (embed, "callbacks", [{"task": "execute_step"}]),
            (embed, "chain", self._chain()), (embed, "errbacks", ["x"]), (embed, "chord", {"x": 1}),
        ]  # fmt: skip
        for where, name, value in self._chance.sample(options, self._chance.randint(0, 3)):
            where[name] = value
        document["body"] = b64encode(json.dumps(body).encode()).decode()
        self._push(pipeline, json.dumps(document).encode())

    def _chain(self) -> list[dict[str, Any]]:
        """A chain that goes on with steps of other runs, in other queues."""
        options = {"task_id": self._chance.choice(self.ids), "queue": "default", "priority": 0}
        task = {"task": "execute_step", "args": [], "kwargs": {}, "subtask_type": None}
        return [task | {"options": options, "immutable": True}]

    def _foreign_command(self, pipeline: Any) -> None:
        pipeline.publish(CHANNEL, self._chance.choice(FOREIGN_COMMANDS[:5] + FOREIGN_COMMANDS[6:]))

    def _mutated_command(self, pipeline: Any) -> None:
        pipeline.publish(CHANNEL, self._mutate(self._a_command()))

    def _command(self, pipeline: Any) -> None:
        pipeline.publish(CHANNEL, self._a_command())

    def _a_command(self) -> bytes:
        """Any command that Celery knows, with arguments that it would take."""
        arguments = self._chance.choice([
            {}, {"n": 2}, {"queue": "default"}, {"max": 1, "min": 0}, {"hard": 0.01},
            {"task_id": self._chance.choice(self.ids), "terminate": True, "signal": "SIGKILL"},
            {"task_name": "execute_step", "rate_limit": "1/h"}, {"ids": self.ids[:3]}, {"x": "y"},
        ])  # fmt: skip
        body = {"method": self._chance.choice(sorted(Panel.data)), "arguments": arguments}
        message = {"body": b64encode(json.dumps(body).encode()).decode(), "headers": {"clock": 9}}
        return json.dumps(message).encode()

    def _wrong_type(self, pipeline: Any) -> None:
        name = self._chance.choice([*_LISTS, "unacked", "_kombu.binding.celery.pidbox"])
        if self._chance.random() < 0.5:
            pipeline.set(name, "x", nx=True)
        else:
            pipeline.hsetnx(name, "a", "b")

    def _mutate(self, message: bytes) -> bytes:
        changed = bytearray(message)
        for _ in range(self._chance.randint(1, 5)):
            at = self._chance.randrange(len(changed) + 1)
            size = self._chance.choice([0, 1, 1, 2, 50])
            changed[at : at + size] = self._chance.randbytes(self._chance.choice([0, 1, 1, 20]))
        return bytes(changed)


def main() -> None:
    """Attack a stack of its own; the exit status is 1 when anything gave way."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak.hostile_redis", description=__doc__)
    parser.add_argument("--messages", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=random.randrange(2**32))
    options = parser.parse_args()
    console.print(f"seed {options.seed}")
    with own_stack(_HANDLERS, workers=2) as (stack, folder):
        findings = attack(stack, folder, options.messages, options.seed)
    sys.exit(1 if findings.faults else 0)


def attack(stack: Stack, folder: Path, messages: int, seed: int) -> Findings:
    """Send the messages while runs come and go, print the figures, and say what gave way."""
    engine = create_engine(stack.environ[f"{PREFIX}DATABASE_URL"])
    client, notes, findings = Client(stack.url, stack.key), folder / "notes", Findings()
    _register(client)
    workers = eventually(lambda: sorted(stack.pids("worker")), until=lambda pids: len(pids) == 2)
    begun = time.monotonic()
    with (
        redis.Redis.from_url(stack.environ[f"{PREFIX}REDIS_URL"]) as broker,
        _running(lambda end: _load(end, client, engine, notes)),
    ):
        message, run_id = _lose(client, broker)
        client.cancel(run_id)
        attacker = Attacker(broker, message, seed)
        forgeries = messages // FORGERIES
        with (
            _running(lambda end: _lose_again(end, client, broker, findings)),
            _running(lambda _: _forge(stack, client, forgeries, seed, findings)),
        ):
            _send_all(attacker, engine, messages - forgeries, findings.sent)
        seconds = time.monotonic() - begun
    eventually(lambda: _scalar(engine, _OPEN), within=120, until=lambda count: count == 0)
    _judge(stack, engine, findings, notes, workers)
    _print(engine, findings, notes, seconds)
    engine.dispose()
    return findings


def _register(client: Client) -> None:
    steps = [{"key": f"s{n}", "uses": f"{_HANDLERS}.note"} for n in range(3)]
    chain = [step | ({"needs": [f"s{n - 1}"]} if n else {}) for n, step in enumerate(steps)]
    client.apply({"name": "load", "steps": chain})
    client.apply({"name": "files", "steps": [{"key": "s", "uses": f"{_HANDLERS}.analyse"}]})
    client.apply({"name": "idle", "queue": "unserved", "steps": [{"key": "s", "uses": "noop"}]})
    client.apply({"name": "lost", "queue": "nobody", "steps": [{"key": "s", "uses": "noop"}]})


@contextmanager
def _running(work: Callable[[Event], None]) -> Iterator[None]:
    """Run it in a thread, and tell it to end; an exception in it ends the soak."""
    end, errors = Event(), list[BaseException]()

    def run() -> None:
        try:
            work(end)
        except BaseException as error:
            errors.append(error)

    thread = Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        end.set()
        thread.join()
    if errors:
        raise errors[0]


def _load(end: Event, client: Client, engine: Engine, notes: Path) -> None:
    while not end.is_set():
        if _scalar(engine, _OPEN) < RUNS_OPEN:
            client.submit("load", {"notes": str(notes)})
        else:
            end.wait(0.05)


def _send_all(attacker: Attacker, engine: Engine, messages: int, sent: Counter[str]) -> None:
    while (left := messages - sent.total()) > 0:
        with engine.connect() as connection:
            attacker.ids = list(connection.scalars(text(_IDS)))
        attacker.send(min(BATCH, left), sent)
        eventually(attacker.waiting, within=300, until=lambda size: size < MAX_WAITING)
    eventually(attacker.waiting, within=600, until=lambda size: size == 0)


def _lose(client: Client, broker: "redis.Redis[bytes]") -> tuple[bytes, str]:
    """Submit a run and take its message away."""
    run = client.submit("lost", {})
    message = eventually(lambda: broker.rpop(_LOST), within=30)
    assert message is not None
    return message, run["id"]


def _lose_again(
    end: Event, client: Client, broker: "redis.Redis[bytes]", findings: Findings
) -> None:
    """Lose a message every second beside foreign ones, and measure until it is sent again."""
    while not end.is_set():
        broker.lpush(f"nobody{_SEPARATOR}7", b"[]")
        _, run_id = _lose(client, broker)
        lost_at = time.monotonic()
        eventually(lambda: broker.llen(_LOST), within=120)
        findings.resent_after.append(time.monotonic() - lost_at)
        broker.delete(_LOST)
        client.cancel(run_id)
        end.wait(1)


def _forge(stack: Stack, client: Client, count: int, seed: int, findings: Findings) -> None:
    """Send so many forgeries to the API; what is genuine opens it before and after."""
    run = client.submit("files", {})
    eventually(lambda: client.run(run["id"])["state"] == "succeeded", within=60)
    every = locks(stack.url, stack.key, "idle", run["id"])
    chance = random.Random(seed)
    for name, lock in every.items():
        assert all(map(lock.opens, lock.genuine)), name
        for forged in lock.forgeries(count // len(every), chance):
            findings.forged[name] += 1
            if lock.opens(forged):
                findings.faults.append(f"{name}: {forged!r} was taken")
        assert all(map(lock.opens, lock.genuine)), name


def _judge(
    stack: Stack, engine: Engine, findings: Findings, notes: Path, workers: Iterable[int]
) -> None:
    ended = set(workers) - set(stack.pids("worker"))
    findings.faults += [f"worker {pid} ended" for pid in ended]
    with engine.connect() as connection:
        claimed = set(connection.scalars(text(_CLAIMED)))
        ends = {row.state: row.count for row in connection.execute(text(_ENDS))}
    handled = Counter(notes.read_text().splitlines())
    findings.faults += [f"a handler ran unclaimed: {each}" for each in handled.keys() - claimed]
    findings.faults += [f"a handler ran twice: {each}" for each, n in handled.items() if n > 1]
    findings.faults += [f"a run {state}" for state in ends.keys() - {"succeeded"}]
    limit = UNCLAIMED.total_seconds() + 2 * SWEEP + SLOWNESS
    late = [each for each in findings.resent_after if each > limit]
    findings.faults += [f"a lost message came again after {each:.1f} s" for each in late]
    findings.faults += [f"{name}: {len(where)} times" for name, where in broken(engine).items()]


def _print(engine: Engine, findings: Findings, notes: Path, seconds: float) -> None:
    dropped = _scalar(engine, "SELECT sum(CAST(usage ->> 'dropped_messages' AS int)) FROM workers")
    handled = len(notes.read_text().splitlines())
    console.print(f"{findings.sent.total():,} messages in {seconds:.0f} s: {dict(findings.sent)}")
    console.print(
        f"{dropped:,} dropped by two workers; {handled:,} handlers ran, each claimed once"
    )
    console.print(f"{findings.forged.total():,} forgeries: {dict(findings.forged)}")
    slowest = max(findings.resent_after, default=0.0)
    console.print(
        f"{len(findings.resent_after)} lost messages sent again, the last after {slowest:.1f} s"
    )
    console.print("\n".join(findings.faults) or "no worker ended, and nothing gave way")


def _scalar(engine: Engine, sql: str) -> Any:
    with engine.connect() as connection:
        return connection.scalar(text(sql))


if __name__ == "__main__":
    main()
