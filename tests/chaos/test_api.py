"""The API is killed again and again: a client that asks again notices nothing but the time."""

import random
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest
from sqlalchemy import Engine, text

from orchestrator.client import Client
from orchestrator.local.stack import Stack
from tests.support.factories import a_spec, eventually
from tests.support.processes import kill

RUNS, KILLS = 120, 3

_STATES = """
    SELECT count(*) AS runs, count(*) FILTER (WHERE state = 'succeeded') AS succeeded,
        min((SELECT count(*) FROM steps WHERE run_id = runs.id)) AS fewest
    FROM runs WHERE workflow = 'besieged'
"""


@pytest.mark.timeout(240)
def test_runs_submitted_while_the_api_is_killed_are_there_once(
    stack: Stack, client: Client, engine: Engine
) -> None:
    client.apply(a_spec("besieged", steps=3))
    submitted: list[str] = []

    with ThreadPoolExecutor(4) as pool:
        clients = [Client(stack.url, stack.key) for _ in range(4)]
        tasks = [pool.submit(_submit, each, submitted, RUNS // 4) for each in clients]
        for number in range(KILLS):
            so_many = RUNS * (number + 1) // (KILLS + 1)
            eventually(lambda: len(submitted), within=60, until=so_many.__le__)
            kill(random.choice(_processes(stack)))
        for task in tasks:
            task.result(60)

    assert len(set(submitted)) == RUNS
    told = eventually(lambda: _told(engine), within=60, until=lambda row: row[1] == RUNS)
    assert told == (RUNS, RUNS, 3)


def _submit(client: Client, submitted: list[str], count: int) -> None:
    for _ in range(count):
        submitted.append(client.submit("besieged", {})["id"])


def _told(engine: Engine) -> tuple[int, int, int]:
    with engine.connect() as connection:
        return tuple(connection.execute(text(_STATES)).one())  # type: ignore[return-value]


def _processes(stack: Stack) -> list[int]:
    """Every process of the API: the one that listens, and the one that answers."""
    everything = psutil.Process(stack._supervisor.pid).children(recursive=True)
    return [each.pid for each in everything if "api.app:serve()" in " ".join(each.cmdline())]
