"""Some hundred simulated histories; `make simulate SEEDS=20000` plays more."""

import pytest
from sqlalchemy import Engine

from tests.simulation.hunt import explain, hunt
from tests.simulation.script import script, shrunk
from tests.simulation.world import play

SEEDS = 700


def test_the_same_seed_is_the_same_history(simulated_url: str, engine: Engine) -> None:
    first, second = (play(engine, script(7)) for _ in range(2))

    assert first == second
    assert len(first[0]) > 10


def test_a_history_is_shrunk_to_what_matters() -> None:
    actions = script(7)
    culprits = {actions[3], actions[20]}

    assert shrunk(actions, lambda fewer: culprits <= set(fewer)) == [actions[3], actions[20]]


@pytest.mark.timeout(900)
def test_no_seed_shows_a_fault(simulated_url: str) -> None:
    *_, (played, failing) = hunt(simulated_url, range(SEEDS))

    if failing is not None:
        pytest.fail(explain(simulated_url, failing), pytrace=False)
    assert played == SEEDS
