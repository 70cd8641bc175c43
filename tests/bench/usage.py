"""CPU seconds and memory of a measurement, by process."""

import re
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

import psutil

from config.settings import PREFIX
from orchestrator.local.stack import Stack

_ROLES = {
    r"tests\.bench\.bare": "bare worker",
    r"-A workers\.app worker|orchestrator worker": "worker",
    r"(?:orchestrator|workers\.)\s?scheduler": "scheduler",
    r"api\.app:serve|orchestrator api": "api",
    r"redis-server": "redis",
    r"postgres": "postgres",
    r"flower": "flower",
}


@dataclass
class Used:
    """CPU seconds and proportional memory (PSS) in MB, by role."""

    cpu: Counter[str] = field(default_factory=Counter)
    memory: Counter[str] = field(default_factory=Counter)

    def as_json(self) -> dict[str, dict[str, float]]:
        """The JSON of the report."""
        return {"cpu_seconds": dict(self.cpu), "peak_mb": dict(self.memory)}


@contextmanager
def using(stack: Stack) -> Iterator[Used]:
    """The usage of the stack and the bare workers in the block; memory is read at its end."""
    folder = stack.environ[f"{PREFIX}DATA_DIR"]
    used, before = Used(), _seconds(folder)
    try:
        yield used
    finally:
        after = _seconds(folder)
        for (pid, role), seconds in after.items():
            used.cpu[role] += seconds - before.get((pid, role), 0.0)
        used.memory = _memory(folder)


def _processes(folder: str) -> Iterator[tuple[psutil.Process, str]]:
    """Descendants of this process; Postgres is not one, and is recognised by its folder."""
    started = psutil.Process().children(recursive=True)
    for server in psutil.process_iter(["cmdline"]):
        words = server.info["cmdline"] or []
        if any(word.startswith(folder) for word in words) and "postgres" in words[0]:
            with suppress(psutil.Error):
                started += [server, *server.children()]
    for process in set(started):
        with suppress(psutil.Error):
            words = " ".join(process.cmdline())
            role = next((role for mark, role in _ROLES.items() if re.search(mark, words)), None)
            if role is not None:
                yield process, role


def _seconds(folder: str) -> dict[tuple[int, str], float]:
    seconds = {}
    for process, role in _processes(folder):
        with suppress(psutil.Error):
            times = process.cpu_times()
            seconds[process.pid, role] = times.user + times.system
    return seconds


def _memory(folder: str) -> Counter[str]:
    memory: Counter[str] = Counter()
    for process, role in _processes(folder):
        with suppress(psutil.Error):
            memory[role] += process.memory_full_info().pss / 1e6
    return memory
