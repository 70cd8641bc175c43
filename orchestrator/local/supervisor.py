"""Keep processes running with supervisord."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from configparser import RawConfigParser
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from config.settings import environ_for
from orchestrator.local.processes import STOP_SECONDS, end_with_parent, stop_process

_SUPERVISORD = (sys.executable, "-m", "orchestrator.local.supervisor")


@dataclass(frozen=True)
class Program:
    """A process that is restarted when it ends."""

    name: str
    command: Sequence[str]
    process: str  # api, scheduler, worker or flower; decides which secrets it gets
    stop_seconds: int = STOP_SECONDS


@contextmanager
def start_supervised(
    programs: list[Program], directory: Path, environ: Mapping[str, str]
) -> Iterator[subprocess.Popen[bytes]]:
    """Run the programs under supervisord, which restarts them; their logs are in `logs`.

    Each program gets only the secrets of the environment that it needs. They go through a pipe,
    not through the supervisor's environment or a file.
    """
    logs = directory / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    conf = directory / "supervisord.conf"
    _write_conf(conf, programs, f"{logs}/%(program_name)s.log")
    variables = {**os.environ, **environ}
    process = subprocess.Popen(
        [*_SUPERVISORD, "--environs", "-c", str(conf)],
        env=environ_for("supervisor", variables),
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        preexec_fn=end_with_parent,
    )
    assert process.stdin is not None
    with process.stdin as pipe:
        environs = {each.name: environ_for(each.process, variables) for each in programs}
        pipe.write(json.dumps(environs).encode())
    try:
        yield process
    finally:
        stop_process(process, within=max(each.stop_seconds for each in programs) + 5)


def exec_supervised(program: Program, directory: Path) -> None:
    """Replace this process by supervisord with one program, which inherits stdout."""
    directory.mkdir(parents=True, exist_ok=True)
    conf = directory / f"{program.name}.conf"
    _write_conf(conf, [program], "/dev/fd/1")
    command = [*_SUPERVISORD, "-c", str(conf)]
    os.execve(command[0], command, environ_for(program.process, os.environ))


def main() -> None:
    """Be a supervisord that starts its programs at once, each with its own environment.

    The original waits for a second first, and its programs inherit its environment. With
    `--environs` it reads the environment of each program from stdin, as JSON.
    """
    from supervisor import supervisord

    environs: dict[str, dict[str, str]] = {}  # by program
    if sys.argv[1:2] == ["--environs"]:
        del sys.argv[1]
        environs = json.load(sys.stdin)

    class Supervisor(supervisord.Supervisor):  # type: ignore[misc]
        def runforever(self) -> None:
            for group in sorted(self.process_groups.values()):
                for name, process in group.processes.items():
                    process.config.environment = environs.get(name)
                group.transition()
            super().runforever()

    supervisord.Supervisor = Supervisor
    supervisord.main()


def _write_conf(path: Path, programs: list[Program], log: str) -> None:
    """Write the configuration file. No control socket: signals are enough."""
    to_file = not log.startswith("/dev/")
    conf = RawConfigParser()
    conf["supervisord"] = {
        "nodaemon": "true",
        # No device files: supervisord removes its pidfile when it ends.
        "logfile": str(path.with_suffix(".log")),
        "logfile_maxbytes": "1MB",
        "pidfile": str(path.with_suffix(".pid")),
        **({"user": "root"} if os.geteuid() == 0 else {}),
    }
    for program in programs:
        conf[f"program:{program.name}"] = {
            "command": " ".join(_quoted(word) for word in program.command),
            "autorestart": "true",
            "startsecs": "1",
            "startretries": "1000000000",  # each pause is longer; it never gives up
            "stopsignal": "TERM",
            "stopwaitsecs": str(program.stop_seconds),
            "killasgroup": "true",
            "redirect_stderr": "true",
            "stdout_logfile": log,
            "stdout_logfile_maxbytes": "20MB" if to_file else "0",
            "stdout_logfile_backups": "2" if to_file else "0",
        }
    with path.open("w") as file:
        conf.write(file)


def _quoted(word: str) -> str:
    escaped = word.replace("%", "%%").replace('"', '\\"')
    return f'"{escaped}"'


if __name__ == "__main__":
    main()
