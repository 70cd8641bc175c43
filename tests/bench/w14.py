"""W14: steps a second while 1,000, 100,000 and 1,000,000 other runs wait."""

import uuid
from functools import partial

from sqlalchemy import Engine

from orchestrator.client import Client
from orchestrator.stack import Stack
from tests.bench import many
from tests.bench.ask import chain, engine_of, scalar, submit_many
from tests.bench.report import Report
from tests.bench.w4 import ENDED, rate
from tests.processes import a_worker

WAITING, RUNS, REPEATS = (1_000, 100_000, 1_000_000), 300, 5
_QUEUE = "w14"
_AT_ONCE = 20_000


def measure(stack: Stack, waiting: tuple[int, ...] = WAITING) -> Report:
    """Runs that go first in a queue, of which the worker takes no other meanwhile."""
    client, engine = Client(stack.url, stack.key), engine_of(stack)
    report = Report("w14", f"steps a second of {RUNS} runs that go first")
    client.apply(chain("backlog", 5, priority=0, queue=_QUEUE))
    found: dict[int, list[float]] = {}
    for count in waiting:
        _let_wait(engine, client, count)
        found[count] = []
        for _ in range(REPEATS):
            name = f"w14-{uuid.uuid4().hex[:8]}"
            client.apply(chain(name, 5, priority=9, queue=_QUEUE))
            submit_many(stack, name, RUNS)
            with a_worker(stack, _QUEUE, "--concurrency", "2"):
                ended = partial(scalar, engine, ENDED, name=name)
                found[count].append(5 * rate(ended, RUNS))
    for count in waiting:
        report.add(f"{count:,} waiting", found[count], found[waiting[0]], at_least=0.9)
    engine.dispose()
    return report


def _let_wait(engine: Engine, client: Client, count: int) -> None:
    """So many runs that come after all others; the first is accepted, the others are its copies."""
    if not client.runs(workflow="backlog", limit=1)["items"]:
        client.submit("backlog", {})
    have = int(scalar(engine, "SELECT count(*) FROM runs WHERE workflow = 'backlog'"))
    one = scalar(engine, "SELECT id FROM runs WHERE workflow = 'backlog' LIMIT 1")
    for first in range(have, count, _AT_ONCE):
        with engine.begin() as connection:
            many.clone(connection, one, first, min(count, first + _AT_ONCE) - 1)
