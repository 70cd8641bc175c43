"""The previous release: its code from the repository, and its processes.

`RELEASE` is the commit whose API, scheduler and workers must keep working on the schema of this
code, and whose runs this code must finish. After a release, set it to the commit of that release.
"""

import os
import subprocess
import sys
import tarfile
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path

RELEASE = "3a8c7b6fecdd016fffe94054d72e0cb396e26ca9"

ROOT = Path(__file__).parents[2]


def is_here() -> bool:
    """Whether this clone contains the release; a shallow one and an archive do not."""
    command = ["git", "-C", str(ROOT), "cat-file", "-e", f"{RELEASE}^{{commit}}"]
    try:
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    except OSError:
        return False


def unpack(folder: Path) -> Path:
    """Extract the code of the release into the folder."""
    command = ["git", "-C", str(ROOT), "archive", RELEASE]
    archive = subprocess.run(command, capture_output=True, check=True).stdout
    with tarfile.open(fileobj=BytesIO(archive)) as packed:
        packed.extractall(folder, filter="data")
    return folder


class Processes:
    """Processes of one version of the code, started and ended by name."""

    def __init__(self, code: Path, environ: Mapping[str, str], logs: Path) -> None:
        self.code, self._logs = code, logs
        self._environ = {**os.environ, **environ, "PYTHONPATH": str(code)}
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def run(self, *words: str) -> str:
        """Run a command to its end; returns its stdout. Raises AssertionError on failure."""
        command = [sys.executable, "-m", "orchestrator", *words]
        return self._run(command)

    def where(self) -> list[str]:
        """Where the packages are imported from: not from an installed version."""
        names = "api, config, orchestrator, tests, workers"
        script = f"import {names}; print(*[each.__path__[0] for each in ({names})], sep='\\n')"
        return self._run([sys.executable, "-c", script]).split()

    def start(self, name: str, *words: str) -> None:
        """Start a process that keeps running."""
        command = [sys.executable, "-m", "orchestrator", *words]
        with (self._logs / f"{name}.log").open("ab") as log:
            self._running[name] = subprocess.Popen(
                command, cwd=self.code, env=self._environ, stdout=log, stderr=log
            )

    def end(self, *names: str) -> None:
        """Terminate these processes, or all of them, and wait for their end."""
        ending = [self._running.pop(name) for name in names or list(self._running)]
        for each in ending:
            each.terminate()
        for each in ending:
            try:
                each.wait(30)
            except subprocess.TimeoutExpired:
                each.kill()
                each.wait()

    def _run(self, command: Sequence[str]) -> str:
        done = subprocess.run(
            command, cwd=self.code, env=self._environ, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout
