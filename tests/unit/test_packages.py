"""What we are installed with: nothing newer than what was tried, and nothing without its hash."""

import re
import tomllib
from collections.abc import Iterable
from importlib.metadata import requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT = PYPROJECT["project"]
EXTRAS = PROJECT["optional-dependencies"]
RUNNING = [*PROJECT["dependencies"], *EXTRAS["build"], *EXTRAS["examples"], *EXTRAS["s3"]]
DEVELOPING = [*RUNNING, *EXTRAS["local"], *EXTRAS["dev"]]
LOCKS = {name: (ROOT / name).read_text() for name in ("requirements.lock", "requirements-dev.lock")}
PINNED = re.compile(r"^(?P<name>[\w.-]+)==[^\s;]+(?: ;[^\\\n]+)?", re.MULTILINE)


def test_every_package_has_a_lower_and_an_upper_bound() -> None:
    needed = [*RUNNING, *EXTRAS["local"]]

    assert [each for each in needed if not re.search(r">=\d.*,<\d", each)] == []


@pytest.mark.parametrize("lock", LOCKS)
def test_every_line_of_a_lock_has_its_hash_and_says_nothing_of_where_it_is_from(lock: str) -> None:
    hashed = re.findall(rf"{PINNED.pattern} \\\n +--hash=sha256:", LOCKS[lock], re.MULTILINE)
    lines = [each for each in LOCKS[lock].splitlines() if not each.startswith("    --hash=sha256:")]

    assert len(hashed) == len(lines)
    assert "://" not in LOCKS[lock]


@pytest.mark.parametrize(
    ("lock", "needed"),
    [("requirements.lock", RUNNING), ("requirements-dev.lock", DEVELOPING)],
)
def test_a_lock_has_all_that_is_asked_for_and_all_that_this_needs_in_turn(
    lock: str, needed: list[str]
) -> None:
    assert _closure(needed) - _locked(lock) == set()


def test_what_runs_has_no_tool_of_development_and_the_same_releases() -> None:
    only_for_development = {_name(each) for each in [*EXTRAS["local"], *EXTRAS["dev"]]}
    running, developing = (
        {found[0].rstrip() for found in PINNED.finditer(text)} for text in LOCKS.values()
    )

    assert only_for_development.isdisjoint(_locked("requirements.lock"))
    assert only_for_development <= _locked("requirements-dev.lock")
    assert running < developing


def test_what_builds_us_is_locked_with_what_runs() -> None:
    asked_for = {_name(each) for each in PYPROJECT["build-system"]["requires"]}

    assert asked_for <= _locked("requirements.lock")


def _locked(lock: str) -> set[str]:
    return {found["name"] for found in PINNED.finditer(LOCKS[lock])}


def _closure(needed: Iterable[str]) -> set[str]:
    """The names of these requirements, and of what they require here, as it is installed."""
    waiting = [Requirement(each) for each in needed]
    seen: set[tuple[str, frozenset[str]]] = set()
    while waiting:
        found = waiting.pop()
        key = (canonicalize_name(found.name), frozenset(found.extras))
        if key in seen or (found.marker and not found.marker.evaluate()):
            continue
        seen.add(key)
        for each in map(Requirement, requires(found.name) or ()):
            extras = [extra for extra in ("", *found.extras) if _applies(each, extra)]
            waiting.extend([each] if extras else [])
    return {name for name, _ in seen}


def _applies(requirement: Requirement, extra: str) -> bool:
    return requirement.marker is None or requirement.marker.evaluate({"extra": extra})


def _name(requirement: str) -> str:
    return canonicalize_name(Requirement(requirement).name)
