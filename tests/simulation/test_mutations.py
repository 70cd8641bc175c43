"""The simulation catches a damaged core; `make mutations` tries every mutation."""

from pathlib import Path

import pytest

from tests.simulation.damages import MUTATIONS, Mutation
from tests.simulation.mutations import damage, judge


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)
def test_every_mutation_still_finds_its_text(mutation: Mutation, tmp_path: Path) -> None:
    damage(mutation, tmp_path)


@pytest.mark.parametrize("name", ["forget to close a run", "tell the broker before the commit"])
def test_a_damaged_core_is_caught(name: str, simulated_url: str) -> None:
    (mutation,) = (each for each in MUTATIONS if each.name == name)

    assert judge(mutation, simulated_url).caught_by is not None
