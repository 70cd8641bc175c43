"""The dependencies: each with bounds, and each locked with its hash."""

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
def test_every_line_of_a_lock_has_its_hash_and_no_url(lock: str) -> None:
    hashed = re.findall(rf"{PINNED.pattern} \\\n +--hash=sha256:", LOCKS[lock], re.MULTILINE)
    lines = [each for each in LOCKS[lock].splitlines() if not each.startswith("    --hash=sha256:")]

    assert len(hashed) == len(lines)
    assert "://" not in LOCKS[lock]


@pytest.mark.parametrize(
    ("lock", "needed"),
    [("requirements.lock", RUNNING), ("requirements-dev.lock", DEVELOPING)],
)
def test_a_lock_has_all_requirements_and_theirs(lock: str, needed: list[str]) -> None:
    assert _closure(needed) - _locked(lock) == set()


def test_what_runs_has_no_tool_of_development_and_the_same_releases() -> None:
    only_for_development = {_name(each) for each in [*EXTRAS["local"], *EXTRAS["dev"]]}
    running, developing = (
        {match[0].partition(" ;")[0].rstrip() for match in PINNED.finditer(text)}
        for text in LOCKS.values()
    )

    assert only_for_development.isdisjoint(_locked("requirements.lock"))
    assert only_for_development <= _locked("requirements-dev.lock")
    assert running < developing


def test_what_builds_us_is_locked_with_what_runs() -> None:
    required = {_name(each) for each in PYPROJECT["build-system"]["requires"]}

    assert required <= _locked("requirements.lock")


def _locked(lock: str) -> set[str]:
    return {match["name"] for match in PINNED.finditer(LOCKS[lock])}


def _closure(needed: Iterable[str]) -> set[str]:
    """The names of these requirements and, as installed here, of theirs."""
    waiting = [Requirement(each) for each in needed]
    seen: set[tuple[str, frozenset[str]]] = set()
    while waiting:
        requirement = waiting.pop()
        key = (canonicalize_name(requirement.name), frozenset(requirement.extras))
        if key in seen or (requirement.marker and not requirement.marker.evaluate()):
            continue
        seen.add(key)
        for each in map(Requirement, requires(requirement.name) or ()):
            extras = [extra for extra in ("", *requirement.extras) if _applies(each, extra)]
            waiting.extend([each] if extras else [])
    return {name for name, _ in seen}


def _applies(requirement: Requirement, extra: str) -> bool:
    return requirement.marker is None or requirement.marker.evaluate({"extra": extra})


def _name(requirement: str) -> str:
    return canonicalize_name(Requirement(requirement).name)
