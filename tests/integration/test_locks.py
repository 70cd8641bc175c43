"""That what is locked can be installed; the package index is asked, and nothing is changed."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.timeout(300)
def test_what_runs_can_be_installed_with_every_hash_on_the_python_of_the_image(
    tmp_path: Path,
) -> None:
    base = re.search(r"^FROM python:(?P<version>\d\.\d+)-slim$", _dockerfile(), re.MULTILINE)
    assert base

    # Wheels only: the image has no compiler. A folder of its own has nothing installed before.
    done = subprocess.run(
        [
            sys.executable, "-m", "pip", "install", "--dry-run", "--quiet", "--require-hashes",
            "--only-binary=:all:", f"--python-version={base['version']}", f"--target={tmp_path}",
            "-r", "requirements.lock",
        ],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip

    assert done.returncode == 0, done.stderr


def _dockerfile() -> str:
    return (ROOT / "Dockerfile").read_text()
