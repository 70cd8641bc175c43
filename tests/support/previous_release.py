"""The release before this one, for real: its code out of the repository, its processes.

`RELEASE` is the commit whose API, scheduler and workers must go on working on the schema of this
code, and whose runs this code must finish. After a release move it to the commit of that release.
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
    """Whether this clone has the release; a shallow one and an archive do not."""
    asked = ["git", "-C", str(ROOT), "cat-file", "-e", f"{RELEASE}^{{commit}}"]
    try:
        return subprocess.run(asked, capture_output=True, check=False).returncode == 0
    except OSError:
        return False


def unpack(folder: Path) -> Path:
    """The code of the release in a folder."""
    asked = ["git", "-C", str(ROOT), "archive", RELEASE]
    archive = subprocess.run(asked, capture_output=True, check=True).stdout
    with tarfile.open(fileobj=BytesIO(archive)) as packed:
        packed.extractall(folder, filter="data")
    return folder


class Processes:
    """Processes of one code, started by name; what is left ends with the block."""

    def __init__(self, code: Path, environ: Mapping[str, str], logs: Path) -> None:
        self.code, self._logs = code, logs
        self._environ = {**os.environ, **environ, "PYTHONPATH": str(code)}
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def run(self, *words: str) -> str:
        """A command of this code; gives what it printed. Raises CalledProcessError."""
        command = [sys.executable, "-m", "orchestrator", *words]
        return self._run(command)

    def where(self) -> list[str]:
        """From where this code is imported: an installed one must not come before it."""
        names = "api, config, orchestrator, tests, workers"
        said = f"import {names}; print(*[each.__path__[0] for each in ({names})], sep='\\n')"
        return self._run([sys.executable, "-c", said]).split()

    def start(self, name: str, *words: str) -> None:
        """A process that stays."""
        command = [sys.executable, "-m", "orchestrator", *words]
        with (self._logs / f"{name}.log").open("ab") as log:
            self._running[name] = subprocess.Popen(
                command, cwd=self.code, env=self._environ, stdout=log, stderr=log
            )

    def end(self, *names: str) -> None:
        """Tell them to end, all of them when none is named, and wait for it."""
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
