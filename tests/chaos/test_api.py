"""The API is killed repeatedly: clients that retry see nothing but a delay."""

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
def test_runs_submitted_while_the_api_is_killed_exist_once(
    stack: Stack, client: Client, engine: Engine
) -> None:
    client.apply(a_spec("besieged", steps=3))
    submitted: list[str] = []

    with ThreadPoolExecutor(4) as pool:
        clients = [Client(stack.url, stack.key) for _ in range(4)]
        tasks = [pool.submit(_submit, each, submitted, RUNS // 4) for each in clients]
        for number in range(KILLS):
            threshold = RUNS * (number + 1) // (KILLS + 1)
            eventually(lambda: len(submitted), within=60, until=threshold.__le__)
            kill(random.choice(eventually(lambda: _processes(stack), within=30)))  # it restarts
        for task in tasks:
            task.result(60)

    assert len(set(submitted)) == RUNS
    counts = eventually(lambda: _counts(engine), within=60, until=lambda row: row[1] == RUNS)
    assert counts == (RUNS, RUNS, 3)


def _submit(client: Client, submitted: list[str], count: int) -> None:
    for _ in range(count):
        submitted.append(client.submit("besieged", {})["id"])


def _counts(engine: Engine) -> tuple[int, int, int]:
    with engine.connect() as connection:
        return tuple(connection.execute(text(_STATES)).one())  # type: ignore[return-value]


def _processes(stack: Stack) -> list[int]:
    """The processes of the API: gunicorn's master and its worker."""
    everything = psutil.Process(stack._supervisor.pid).children(recursive=True)
    return [each.pid for each in everything if "api.app:serve()" in " ".join(each.cmdline())]
