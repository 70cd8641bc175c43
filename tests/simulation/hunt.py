"""Search for a seed that shows a fault, in several processes, and explain its history."""

import gc
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import cache, partial
from multiprocessing import get_context

from sqlalchemy import Connection, Engine

from orchestrator.db.engine import make_engine
from tests.simulation.postgres import CLOCK
from tests.simulation.script import Action, script, shrunk
from tests.simulation.workflows import register
from tests.simulation.world import play

PROCESSES = 2
BATCH = 100  # seeds that a process plays per task
# A third of all statements, which SQLAlchemy would compile every time.
_SAVEPOINTS = {
    "do_savepoint": "SAVEPOINT {}",
    "do_release_savepoint": "RELEASE SAVEPOINT {}",
    "do_rollback_to_savepoint": "ROLLBACK TO SAVEPOINT {}",
}


def prepare(database_url: str) -> None:
    """Install the virtual clock and the workflows in a database; idempotent."""
    engine = make_engine(database_url, pool_size=1)
    with engine.begin() as connection:
        connection.exec_driver_sql(CLOCK)
    register(engine)
    engine.dispose()


def hunt(database_url: str, seeds: Sequence[int]) -> Iterator[tuple[int, int | None]]:
    """The number of seeds played so far, after each batch, and the first seed with a fault."""
    parts = [seeds[at : at + BATCH] for at in range(0, len(seeds), BATCH)]
    with ProcessPoolExecutor(PROCESSES, get_context("spawn")) as processes:
        played = 0
        for part, failing in zip(
            parts, processes.map(partial(first_failure, database_url), parts), strict=True
        ):
            played += len(part)
            yield played, failing
            if failing is not None:
                processes.shutdown(cancel_futures=True)
                return


def first_failure(database_url: str, seeds: Sequence[int]) -> int | None:
    """The first of the seeds that shows a fault."""
    return next((seed for seed in seeds if fault_of(database_url, seed) is not None), None)


def fault_of(database_url: str, seed: int) -> str | None:
    """The fault of a seed, or None."""
    return play(_engine(database_url), script(seed))[1]


def explain(database_url: str, seed: int) -> str:
    """The shortest history found with the seed's fault, as text."""
    engine, actions = _engine(database_url), script(seed)
    history, fault = play(engine, actions)
    if fault is None:
        return "\n".join([*history, f"seed {seed} shows no fault"])
    kind = fault[:45]  # the fault without its rows

    def fails(subset: Sequence[Action]) -> bool:
        return (play(engine, subset)[1] or "").startswith(kind)

    short, again = play(engine, shrunk(actions, fails))
    lines = [f"seed {seed}, as short as it gets:", *short, f"FAULT {again or fault}"]
    return "\n".join([*lines, f"once more: make simulate SEED={seed}"])


@cache
def _engine(database_url: str) -> Engine:
    """The one connection of this process."""
    gc.set_threshold(50_000)  # many small objects, few cycles: collecting took a tenth of the time
    engine = make_engine(database_url, pool_size=1, name="orchestrator-simulation")
    for verb, sql in _SAVEPOINTS.items():
        setattr(engine.dialect, verb, partial(_at_savepoint, sql))
    return engine


def _at_savepoint(sql: str, connection: Connection, name: str) -> None:
    with connection.connection.cursor() as cursor:
        cursor.execute(sql.format(name))
