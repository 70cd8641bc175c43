"""Two concurrent verbs on one run leave what one of their serial orders leaves."""

from collections.abc import Iterator

import pytest
from sqlalchemy import Engine

from orchestrator.db.engine import make_engine
from tests.chaos.invariants import broken
from tests.conftest import Services, empty
from tests.simulation.races import Races

PAIRS = [
    ("running", "succeed a", ["succeed b", "fail b", "cancel", "reprioritise", "succeed a"]),
    ("running", "fail a", ["succeed b", "fail b", "cancel"]),
    ("running", "lose a", ["succeed a", "cancel", "lose a"]),
    ("running", "cancel", ["succeed a", "fail a", "lose a", "cancel"]),
    ("silent", "rescue", ["succeed a", "renew", "cancel", "rescue"]),
    ("silent", "succeed a", ["rescue"]),
    ("published", "claim a", ["claim a", "cancel", "republish", "reprioritise"]),
    ("published", "cancel", ["claim a", "republish"]),
    ("published", "republish", ["claim a", "republish", "cancel"]),
    ("waiting", "wake", ["wake", "cancel", "fail b", "reprioritise"]),
    ("waiting", "cancel", ["wake"]),
    ("pending", "admit", ["admit", "cancel", "reprioritise"]),
    ("pending", "cancel", ["admit"]),
    ("late", "expire", ["expire", "succeed a", "cancel"]),
    ("late", "cancel", ["expire"]),
    ("ended", "retry", ["retry", "cancel"]),
]


@pytest.fixture(scope="module")
def races(services: Services) -> Iterator[Races]:
    """Two engines with connections of their own."""
    sides = [
        make_engine(services.database_url, pool_size=3, name=name) for name in ("first", "second")
    ]
    yield Races(*sides)
    with sides[0].begin() as connection:
        empty(connection)
    for side in sides:
        side.dispose()


@pytest.mark.parametrize(
    ("scene", "first", "second"),
    [(scene, first, second) for scene, first, others in PAIRS for second in others],
)
def test_two_verbs_that_meet_leave_what_one_order_leaves(
    races: Races, engine: Engine, scene: str, first: str, second: str
) -> None:
    orders = [races.serial(scene, first, second), races.serial(scene, second, first)]

    for after in range(1, races.statements(scene, first) + 1):
        left = races.meet(scene, first, second, after)
        assert left in orders, f"{second} after {after} statements of {first}"
        assert broken(engine) == {}
