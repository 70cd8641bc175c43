"""A database with the virtual clock and the simulated workflows."""

from collections.abc import Iterator

import pytest
from sqlalchemy import Engine

from tests.conftest import Services, empty
from tests.simulation.hunt import prepare


@pytest.fixture(scope="module")
def simulated_url(services: Services, engine: Engine) -> Iterator[str]:
    """The URL of the database; only the clock is left in it afterwards."""
    prepare(services.database_url)
    yield services.database_url
    with engine.begin() as connection:
        empty(connection)
