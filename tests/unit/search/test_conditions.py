"""Conditions are simplified and compared without the database."""

from operator import gt

from orchestrator.search.conditions import (
    NEVER,
    Field,
    InValues,
    all_of,
    any_of,
    compare,
    excludes,
    negated,
    one_of,
    size,
)

STATE, WARNINGS = Field("state"), Field("warnings")
FAILED, ENDED = one_of(STATE, ["failed"]), one_of(STATE, ["failed", "succeeded"])
WARNED = compare(WARNINGS, gt, 0)


def test_conditions_exclude_each_other_when_their_values_are_apart() -> None:
    succeeded = one_of(STATE, ["succeeded"])

    assert excludes(FAILED, succeeded)
    assert excludes(all_of(succeeded, one_of(WARNINGS, [0])), all_of(succeeded, WARNED))
    assert not excludes(FAILED, ENDED)
    assert not excludes(FAILED, WARNED)
    assert not excludes(one_of(WARNINGS, [0, 3]), WARNED)


def test_the_size_of_a_condition_is_that_of_its_tests() -> None:
    assert size(all_of(FAILED, negated(any_of(ENDED, WARNED)))) == 3
    assert size(NEVER) == 0


def test_lists_of_the_same_value_become_one() -> None:
    assert any_of(FAILED, ENDED) == InValues(STATE, ("failed", "succeeded"))
