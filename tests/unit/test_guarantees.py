"""The tests that docs/guarantees.md names exist, and it lists every fault."""

import re
from pathlib import Path

import pytest

from tests.chaos.faults import FAULTS

TESTS = Path(__file__).parents[1]
TEXT = (TESTS.parent / "docs/guarantees.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("module", "test"), sorted(set(re.findall(r"`([\w/]+\.py)::(test_\w+)`", TEXT)))
)
def test_the_proof_of_a_guarantee_is_a_test(module: str, test: str) -> None:
    assert f"\ndef {test}(" in (TESTS / module).read_text(encoding="utf-8")


def test_every_fault_of_the_chaos_has_a_line() -> None:
    listed = [name for row in _rows(r"\d") for name in re.findall(r" \*([^*]+)\*[, ]", row[-2])]

    assert sorted(listed) == sorted(FAULTS)


def test_every_pain_of_the_list_has_a_line() -> None:
    numbers = [int(number) for row in _rows("P") for number in re.findall(r"P(\d+)", row[1])]

    assert sorted(numbers) == list(range(1, 54))


def _rows(first: str) -> list[list[str]]:
    """The cells of the table rows whose first cell matches."""
    return [line.split("|") for line in TEXT.splitlines() if re.match(rf"\| {first}", line)]
