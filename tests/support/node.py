"""Programmes of `tests/node`, for tests that need node and its packages."""

import shutil
import subprocess
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "node"
PACKAGES = FOLDER / "node_modules"

needed = pytest.mark.skipif(
    shutil.which("node") is None or not (PACKAGES / "typescript").is_dir(),
    reason="needs node 20 and its packages: npm ci --prefix tests/node",
)


def run(*words: str | Path, within: float = 120) -> str:
    """What a programme printed: a script of `tests/node`, or of one of its packages."""
    done = subprocess.run(
        ["node", *map(str, words)],
        cwd=FOLDER,
        capture_output=True,
        text=True,
        timeout=within,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout[-6000:]}{done.stderr[-6000:]}"
    return done.stdout
