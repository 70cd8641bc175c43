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

from config import handover
from config.folders import PRIVATE_UMASK, data_folder, open_private, private_files, private_folder
from config.settings import split_environ
from orchestrator.local.processes import STOP_SECONDS, end_with_parent, plain_path, stop_process

_START_SECONDS = 20  # a program that ends earlier did not start; its next start waits longer


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

    Each program gets only the secrets that it needs. They go through pipes, not through an
    environment or a file. Only the owner may read the logs.
    """
    data_folder(directory)
    private_folder(directory / "logs")
    private_files(directory / "logs")
    variables = {**handover.environ(), **environ}
    with plain_path(directory) as path:
        conf = path / "supervisord.conf"
        logs = {each.name: f"{path}/logs/{each.name}.log" for each in programs}
        with open_private(conf) as file:
            file.write(_conf(programs, logs, conf.with_suffix("")))
        process = subprocess.Popen(
            _supervisord(conf),
            env=split_environ(variables)[0],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            preexec_fn=end_with_parent,
            umask=PRIVATE_UMASK,
        )
        assert process.stdin is not None
        with process.stdin as pipe:
            pipe.write(_secrets(programs, variables))
        try:
            yield process
        finally:
            stop_process(process, within=max(each.stop_seconds for each in programs) + 5)


def exec_supervised(program: Program, directory: Path) -> None:
    """Replace this process by supervisord with one program, which inherits stdout.

    Its secrets go through pipes.
    """
    data_folder(directory)
    variables = handover.environ()
    reading, writing = os.pipe()
    os.write(writing, _secrets([program], variables))
    os.close(writing)
    os.dup2(reading, 0)
    with plain_path(directory) as path:  # exec leaves the link
        conf = path / f"{program.name}.conf"
        with open_private(conf) as file:
            file.write(_conf([program], {program.name: "/dev/fd/1"}, conf.with_suffix("")))
        os.umask(PRIVATE_UMASK)
        command = _supervisord(conf)
        os.execve(command[0], command, split_environ(variables)[0])


def _supervisord(conf: Path) -> list[str]:
    """The command of supervisord in the foreground; it reads `_secrets` from stdin."""
    command = [sys.executable, "-m", "orchestrator.local.supervisord"]
    return [*command, "--nodaemon", "-c", str(conf)]


def _secrets(programs: list[Program], variables: Mapping[str, str]) -> bytes:
    """The secrets of each program, as JSON."""
    secrets = {each.name: split_environ(variables, each.process)[1] for each in programs}
    return json.dumps(secrets).encode()


def _conf(programs: list[Program], logs: Mapping[str, str], home: Path) -> str:
    """The configuration file. No control socket: signals are enough."""
    os.umask(umask := os.umask(PRIVATE_UMASK))
    conf = RawConfigParser()
    conf["supervisord"] = {
        "nodaemon": "true",
        # No device files: supervisord removes its pidfile when it ends.
        "logfile": f"{home}.log",
        "logfile_maxbytes": "1MB",
        "pidfile": f"{home}.pid",
        **({"user": "root"} if os.geteuid() == 0 else {}),
    }
    for program in programs:
        to_file = logs[program.name].startswith("/dev/") is False
        conf[f"program:{program.name}"] = {
            "command": " ".join(_quoted(word) for word in program.command),
            "autorestart": "true",
            "startsecs": str(_START_SECONDS),
            "startretries": "1000000000",  # each pause is longer; it never gives up
            "stopsignal": "TERM",
            "stopwaitsecs": str(program.stop_seconds),
            "killasgroup": "true",
            "umask": f"{umask:o}",  # supervisord's own is for its logs
            "redirect_stderr": "true",
            "stdout_logfile": logs[program.name],
            "stdout_logfile_maxbytes": "20MB" if to_file else "0",
            "stdout_logfile_backups": "2" if to_file else "0",
        }
    # Groups are stopped one after the other, the programs of a group at once.
    conf["group:all"] = {"programs": ",".join(program.name for program in programs)}
    lines: list[str] = []
    for section in conf.sections():
        lines += [f"[{section}]", *(f"{key} = {value}" for key, value in conf[section].items())]
    return "\n".join(lines) + "\n"


def _quoted(word: str) -> str:
    escaped = word.replace("%", "%%").replace('"', '\\"')
    return f'"{escaped}"'
