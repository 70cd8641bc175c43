"""What we are installed with: nothing newer than what was tried, and nothing without its hash."""

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
LOCK = (ROOT / "requirements.lock").read_text()


def test_every_package_has_a_lower_and_an_upper_bound() -> None:
    extras = PROJECT["optional-dependencies"]
    needed = [*PROJECT["dependencies"], *extras["local"], *extras["s3"], *extras["examples"]]

    assert [each for each in needed if not re.search(r">=\d.*,<\d", each)] == []


def test_every_package_that_we_need_is_locked_with_its_hash() -> None:
    locked = re.findall(r"^([\w.-]+)==\S+(?: ;[^\\\n]*)? \\\n +--hash=sha256:", LOCK, re.MULTILINE)
    needed = [re.split(r"[^\w.-]", each)[0].lower() for each in PROJECT["dependencies"]]

    assert len(locked) == len(re.findall(r"^[\w.-]+==", LOCK, re.MULTILINE))
    assert set(needed) <= set(locked)
