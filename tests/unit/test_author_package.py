"""The package `orchestrator` for the author of a step, beside modules with the names of others."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hatchling.builders.wheel import WheelBuilder

ROOT = Path(__file__).parents[2]
NAMES = ("api", "config", "workers")  # our other top-level packages


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Python in a folder, which comes first on its path."""
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=folder, env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


def test_a_step_is_written_beside_modules_with_the_names_of_our_packages(tmp_path: Path) -> None:
    for name in NAMES:
        (tmp_path / f"{name}.py").write_text("raise RuntimeError(__name__)")

    program = run(tmp_path, "-c", "from orchestrator import step; step(lambda context: 1)")

    assert (program.returncode, program.stderr) == (0, "")


def test_a_step_is_written_without_our_other_packages() -> None:
    loaded = "from orchestrator import step; import sys; print(*sys.modules)"

    modules = run(ROOT, "-c", loaded).stdout.split()

    assert "orchestrator.sdk.steps" in modules
    assert [each for each in modules if each.partition(".")[0] in NAMES] == []


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("command", ["api", "scheduler", "worker"])
def test_no_process_starts_with_a_module_that_hides_one_of_ours(
    tmp_path: Path, command: str, name: str
) -> None:
    (tmp_path / f"{name}.py").touch()

    program = run(tmp_path, "-m", "orchestrator", command)

    assert program.returncode == 1
    assert program.stderr == (
        f"Error: {tmp_path / name}.py hides the package {name!r} of orchestrator;"
        " rename it, or start from another folder\n"
    )


def test_the_wheel_has_types() -> None:
    files = WheelBuilder(str(ROOT)).recurse_included_files()

    assert "orchestrator/py.typed" in {each.distribution_path for each in files}
