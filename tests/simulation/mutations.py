"""Mutation tests: damage the core in many ways, one at a time, and show what catches each.

Each mutation replaces text of one module in a copy of `orchestrator`, which a child process
imports in place of the real one. `make mutations` prints a table and fails if one survives.
"""

import os
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.conftest import own_services
from tests.simulation.damages import MUTATIONS, Mutation
from tests.simulation.hunt import fault_of, first_failure, prepare

ROOT = Path(__file__).parents[2]
SEEDS = 1500  # that a mutation may survive
_SECONDS = 1800  # timeout of a child


@dataclass(frozen=True)
class Verdict:
    """What caught a mutation; None if nothing did."""

    mutation: Mutation
    caught_by: str | None
    seconds: float


def judge(mutation: Mutation, database_url: str) -> Verdict:
    """Damage a copy of the core, and run the tests that should catch it."""
    began = time.monotonic()
    with TemporaryDirectory(prefix="orchestrator-mutation-") as folder:
        damage(mutation, Path(folder))
        environ = os.environ | {
            "PYTHONPATH": f"{folder}{os.pathsep}{ROOT}",
            "ORCHESTRATOR_DATABASE_URL": database_url,
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        caught = _caught(mutation, Path(folder), environ)
    return Verdict(mutation, caught, time.monotonic() - began)


def damage(mutation: Mutation, folder: Path) -> None:
    """Write the damaged copy. Raises ValueError or SyntaxError when the core lacks the text."""
    source = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "orchestrator", folder / "orchestrator", ignore=source)
    is_sql = mutation.module.startswith("db/functions/")
    module = folder / "orchestrator" / f"{mutation.module}{'.sql' if is_sql else '.py'}"
    text = module.read_text()
    for old, new in mutation.changes:
        if text.count(old) != 1:
            raise ValueError(f"{mutation.name}: not once in {module.name}: {old!r}")
        text = text.replace(old, new)
    if not is_sql:
        compile(text, module, "exec")
    module.write_text(text)


def _caught(mutation: Mutation, folder: Path, environ: dict[str, str]) -> str | None:
    if mutation.test is None:
        command = [sys.executable, "-m", "tests.simulation.mutations", "--survives"]
        child = _run(command, folder, environ)
        return _check_exit(child, child.stdout.strip(), "seed ")
    # The copy must come before the tests' own tree on sys.path.
    options = ["-q", "-x", "--import-mode=append", "-p", "no:cacheprovider"]
    command = [sys.executable, "-m", "pytest", "-c", str(ROOT / "pyproject.toml"), *options]
    child = _run([*command, str(ROOT / mutation.test)], folder, environ)
    last = child.stdout.strip().rpartition("\n")[2]
    return mutation.test if _check_exit(child, last, "1 failed") else None


def _check_exit(child: "subprocess.CompletedProcess[str]", line: str, prefix: str) -> str | None:
    """The line if the child caught it, else None. Raises RuntimeError for other exits."""
    if child.returncode == 0:
        return None
    if child.returncode != 1 or not line.startswith(prefix):
        raise RuntimeError(f"{child.args}: {child.stdout[-2000:]}{child.stderr[-2000:]}")
    return line


def _run(
    command: list[str], folder: Path, environ: dict[str, str]
) -> "subprocess.CompletedProcess[str]":
    options = {"cwd": folder, "env": environ, "timeout": _SECONDS}
    return subprocess.run(command, **options, capture_output=True, text=True, check=False)


def _play_in_child() -> int:
    """In the child: play seeds until one shows a fault, and print that.

    In a database of its own, which has the damaged functions.
    """
    with own_services() as services:
        prepare(services.database_url)
        return _play(services.database_url)


def _play(database_url: str) -> int:
    seed = first_failure(database_url, range(SEEDS))
    if seed is not None:
        fault = fault_of(database_url, seed) or "not seen again"
        print(f"seed {seed}: {fault.splitlines()[0][:70]}")
    return int(seed is not None)


def main() -> int:
    """Judge all mutations, or those whose names contain a word of the command line."""
    if sys.argv[1:] == ["--survives"]:
        return _play_in_child()
    words = sys.argv[1:]
    chosen = [each for each in MUTATIONS if not words or any(word in each.name for word in words)]
    survived = 0
    with own_services() as services, ThreadPoolExecutor(2) as pool:
        prepare(services.database_url)
        judged = [pool.submit(judge, each, services.database_url) for each in chosen]
        for verdict in (each.result() for each in as_completed(judged)):
            survived += verdict.caught_by is None
            caught = verdict.caught_by or "SURVIVES"
            print(f"{verdict.mutation.name:48} {verdict.seconds:5.0f} s  {caught}", flush=True)
    print(f"{len(chosen)} mutations, {survived} survive")
    return int(survived > 0)


if __name__ == "__main__":
    sys.exit(main())
