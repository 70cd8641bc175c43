"""Two thousand histories of a core under violence; `make simulate SEEDS=20000` plays more."""

import os

import pytest
from sqlalchemy import Engine

from tests.conftest import Services, empty
from tests.simulation.hunt import explain, hunt, prepare

SEEDS = int(os.environ.get("SIMULATION_SEEDS", "2000"))


@pytest.mark.timeout(600)
def test_no_seed_shows_a_fault(services: Services, engine: Engine) -> None:
    prepare(services.database_url)

    *_, (played, failing) = hunt(services.database_url, range(SEEDS))
    if failing is not None:
        pytest.fail(explain(services.database_url, failing), pytrace=False)

    with engine.begin() as connection:
        empty(connection)
    assert played == SEEDS
