"""Looks for a seed that shows a fault, with a process for each core, and explains what it found."""

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
AT_ONCE = 100  # seeds that a process plays before it says so
# A third of all statements; SQLAlchemy would compile each of them anew.
_SAVEPOINTS = {
    "do_savepoint": "SAVEPOINT {}",
    "do_release_savepoint": "RELEASE SAVEPOINT {}",
    "do_rollback_to_savepoint": "ROLLBACK TO SAVEPOINT {}",
}


def prepare(database_url: str) -> None:
    """Give a database the virtual clock and the workflows; twice is harmless."""
    engine = make_engine(database_url, pool_size=1)
    with engine.begin() as connection:
        connection.exec_driver_sql(CLOCK)
    register(engine)
    engine.dispose()


def hunt(database_url: str, seeds: Sequence[int]) -> Iterator[tuple[int, int | None]]:
    """How many seeds were played, again and again, until one of them shows a fault."""
    parts = [seeds[at : at + AT_ONCE] for at in range(0, len(seeds), AT_ONCE)]
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
    """What is wrong with the history of a seed."""
    return play(_engine(database_url), script(seed))[1]


def explain(database_url: str, seed: int) -> str:
    """The shortest history found that has the seed's fault, line by line."""
    engine, actions = _engine(database_url), script(seed)
    history, fault = play(engine, actions)
    if fault is None:
        return "\n".join([*history, f"seed {seed} shows no fault"])
    kind = fault[:45]  # what is wrong, without all the rows that show it

    def fails(fewer: Sequence[Action]) -> bool:
        return (play(engine, fewer)[1] or "").startswith(kind)

    short, again = play(engine, shrunk(actions, fails))
    said = [f"seed {seed}, as short as it gets:", *short, f"FAULT {again or fault}"]
    return "\n".join([*said, f"once more: make simulate SEED={seed}"])


@cache
def _engine(database_url: str) -> Engine:
    """The one connection of this process."""
    gc.set_threshold(50_000)  # many small objects and few cycles: collecting took a tenth
    engine = make_engine(database_url, pool_size=1, name="orchestrator-simulation")
    for verb, sql in _SAVEPOINTS.items():
        setattr(engine.dialect, verb, partial(_at_savepoint, sql))
    return engine


def _at_savepoint(sql: str, connection: Connection, name: str) -> None:
    with connection.connection.cursor() as cursor:
        cursor.execute(sql.format(name))
