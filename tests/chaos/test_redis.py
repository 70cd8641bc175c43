"""Redis is flushed, killed and restarted: work is delayed, never lost."""

import time
from pathlib import Path

from sqlalchemy import Engine, text

from orchestrator.client import Client
from tests.chaos.fragile import FragileRedis
from tests.support.factories import PROMPT, a_spec, eventually
from tests.support.processes import ended, lines_in, submit

_RECORDED = """
    SELECT count(DISTINCT runs.id), count(*), max(attempt)
    FROM runs JOIN steps ON run_id = runs.id
    WHERE workflow = 'flushed' AND runs.state = 'succeeded' AND steps.state = 'succeeded'
"""


def test_a_flush_in_the_middle_of_two_hundred_runs_loses_nothing(
    client: Client, fragile_redis: FragileRedis, engine: Engine
) -> None:
    client.apply(a_spec("flushed", steps=5))
    for number in range(200):
        client.submit("flushed", {})
        if number in (60, 120, 180):
            fragile_redis.flush()

    recorded = eventually(lambda: _recorded(engine), within=60, until=lambda row: row[0] == 200)

    assert recorded == (200, 1000, 1)


def _recorded(engine: Engine) -> tuple[int, int, int]:
    """The number of succeeded runs and steps, and the maximum of attempts."""
    with engine.connect() as connection:
        runs, steps, attempts = connection.execute(text(_RECORDED)).one()
    return runs, steps, attempts


def test_runs_are_accepted_while_redis_is_away_and_run_when_it_is_back(
    client: Client, fragile_redis: FragileRedis
) -> None:
    client.apply(a_spec("patient", steps=3))
    took, ids = [], []
    with fragile_redis.away():
        for _ in range(3):
            began = time.monotonic()
            ids.append(client.submit("patient", {})["id"])
            took.append(time.monotonic() - began)

    assert max(took) < PROMPT
    for run_id in ids:
        run = ended(client, run_id, within=30)
        assert run["state"] == "succeeded"
        assert [step["attempt"] for step in run["steps"]] == [1, 1, 1]


def test_a_cancel_needs_no_redis(
    client: Client, fragile_redis: FragileRedis, tmp_path: Path
) -> None:
    say = tmp_path / "said"
    spec = {"name": "no-redis", "steps": [{"key": "s", "uses": "tests.support.handlers.hang"}]}
    run = submit(client, spec, params={"say": str(say)})
    lines_in(say)

    with fragile_redis.away():
        began = time.monotonic()
        client.cancel(run["id"])
        answered = time.monotonic() - began
        cancelled = ended(client, run["id"])
        took = time.monotonic() - began

    assert cancelled["state"] == "cancelled"
    assert answered < PROMPT
    assert took < 2 * PROMPT
    again = ended(client, submit(client, a_spec("after"))["id"], within=30)
    assert again["state"] == "succeeded"
