"""`make simulate`: play many seeds, or one; a seed that fails prints a short history."""

import argparse
import os
import sys
import time
from collections.abc import Sequence

from sqlalchemy import Engine

from orchestrator.db import make_engine
from tests.simulation.postgres import CLOCK
from tests.simulation.script import Action, script, shrunk
from tests.simulation.workflows import register
from tests.simulation.world import play


def prepare(engine: Engine) -> None:
    """Give the database the virtual clock and the workflows; twice is harmless."""
    with engine.begin() as connection:
        connection.exec_driver_sql(CLOCK)
    register(engine)


def first_failure(engine: Engine, seeds: Sequence[int], *, progress: bool = False) -> int | None:
    """The first of the seeds that shows a fault."""
    began = time.monotonic()
    for count, seed in enumerate(seeds, start=1):
        if play(engine, script(seed))[1] is not None:
            return seed
        if progress and count % 500 == 0:
            print(f"{count} seeds, {count / (time.monotonic() - began):.0f} a second", flush=True)
    return None


def explain(engine: Engine, seed: int) -> str:
    """The shortest history found that has the seed's fault, step by step."""
    actions = script(seed)
    history, fault = play(engine, actions)
    if fault is None:
        return "\n".join([*history, f"seed {seed} shows no fault"])
    kind = fault[:45]  # what is wrong, without all the rows that show it

    def fails(fewer: Sequence[Action]) -> bool:
        other = play(engine, fewer)[1]
        return other is not None and other.startswith(kind)

    history, fault = play(engine, shrunk(actions, fails), checks_always=True)
    again = f"again: make simulate SEED={seed}"
    return "\n".join([f"seed {seed}, as short as it gets:", *history, f"FAULT {fault}", again])


def main() -> int:
    """Play what the command line asks for, on the database of the environment."""
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("--seed", type=int)
    asked.add_argument("--first", type=int, default=0)
    asked.add_argument("--seeds", type=int, default=2000)
    given = asked.parse_args()
    engine = make_engine(os.environ["ORCHESTRATOR_DATABASE_URL"], pool_size=2)
    try:
        if given.seed is not None:
            print(explain(engine, given.seed))
            return 0
        seeds = range(given.first, given.first + given.seeds)
        failing = first_failure(engine, seeds, progress=True)
        if failing is not None:
            print(explain(engine, failing))
        return int(failing is not None)
    finally:
        engine.dispose()


if __name__ == "__main__":
    sys.exit(main())
