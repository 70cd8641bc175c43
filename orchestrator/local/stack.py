"""The whole system as processes of one machine, for `up`, the demo and the tests."""

import os
import signal
import socket
import sys
import time
from contextlib import ExitStack, suppress
from dataclasses import replace
from datetime import datetime, timedelta
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Self

import psutil
from sqlalchemy import text

from config.folders import open_private
from config.settings import PREFIX, Settings, environ_of
from orchestrator import audit
from orchestrator.access import secrets, tenants
from orchestrator.client import Client
from orchestrator.db import row_security, schema
from orchestrator.db.database import Database
from orchestrator.db.engine import make_engine
from orchestrator.errors import Unavailable
from orchestrator.local import processes, services, supervisor
from orchestrator.local.supervisor import Program
from orchestrator.monitoring.workers import failed_starts, started_processes

if TYPE_CHECKING:
    from orchestrator.db.migrate import Migrated

_READY_SECONDS = 90  # five interpreters that import at once have taken 40 on a slow machine
_MAX_STARTS = 2  # of a program that is not ready; after that its error is permanent
_MAX_GRACE = timedelta(seconds=8)  # of running steps after Ctrl-C


def prepare_database(database_url: str, admin_key: str, *, only: bool = False) -> "Migrated | None":
    """Migrate a database, and create its first tenant and admin key; idempotent.

    Gives what was done to the schema; None: it was up to date. With `only`, keys that earlier
    settings created are revoked.
    """
    engine = make_engine(database_url, pool_size=1)
    try:
        with engine.connect() as connection:
            schema.check_database(connection)
            is_latest = schema.current_version(connection) == schema.latest_version()
            is_ready = is_latest and not row_security.missing_security(connection)
        migrated = None
        if not is_ready:
            from orchestrator.db.migrate import migrate  # Alembic takes half a second

            migrated = migrate(engine)
        database = Database(engine, lambda _: None).acting(audit.command_actor())
        with database.transaction() as session:
            tenants.ensure_default(session, admin_key, only=only)
        return migrated
    finally:
        engine.dispose()


def worker_command(*, queues: str, concurrency: int, pool: str, name: str) -> list[str]:
    """The command of one Celery worker."""
    return [
        sys.executable, "-m", "celery", "-A", "workers.app", "worker",
        "--queues", queues, "--concurrency", str(concurrency), "--pool", pool,
        "--hostname", f"{name}-{os.getpid()}@%h", "--loglevel", "INFO",
        "--without-gossip", "--without-mingle", "--disable-prefetch",
    ]  # fmt: skip


def worker_program(name: str, command: list[str], grace: timedelta) -> Program:
    """A supervised worker, with the time that it needs to stop."""
    seconds = processes.STOP_SECONDS + ceil(grace.total_seconds())
    return Program(name, command, "worker", seconds)


class Stack:
    """Services, API, scheduler, workers and Flower; a context manager that ends all of them."""

    def __init__(
        self,
        settings: Settings,
        *,
        port: int,
        data_dir: Path | None = None,
        workers: int = 1,
        concurrency: int = 2,
        flower: bool = True,
        queues: str = "default",
    ) -> None:
        self._settings = settings
        self._directory = (data_dir or settings.data_dir).absolute()
        self._workers = [f"worker-{number}" for number in range(1, workers + 1)]
        self._port, self._flower = port, flower
        self._concurrency, self._queues = concurrency, queues
        self._exits = ExitStack()
        self.key = ""
        self.environ: dict[str, str] = {}

    @property
    def url(self) -> str:
        """Where the API answers."""
        return f"http://127.0.0.1:{self._port}"

    def __enter__(self) -> Self:
        # SIGTERM raises KeyboardInterrupt as Ctrl-C does, so that the block exits. SIGINT is set as
        # well: a shell starts background processes with SIGINT ignored.
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.default_int_handler)
        with self._exits:
            self._start()
            self._exits = self._exits.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._exits.close()

    @property
    def flower_url(self) -> str:
        """Where Flower answers."""
        return f"http://127.0.0.1:{self._settings.flower_port}"

    def pids(self, name: str) -> list[int]:
        """Pids of the programs with this name, or with this name and a number."""
        pids = []
        for each in psutil.Process(self._supervisor.pid).children():
            with suppress(psutil.Error):  # it has just ended
                program = each.environ().get("SUPERVISOR_PROCESS_NAME", "")
                if f"{program}-".startswith(f"{name}-"):
                    pids.append(each.pid)
        return pids

    def wait(self) -> None:
        """Wait for Ctrl-C, SIGTERM or the end of the supervisor."""
        with suppress(KeyboardInterrupt):
            self._supervisor.wait()

    def greeting(self) -> str:
        """URLs, key and log folder, for a person."""
        flower = f"Flower   {self.flower_url}   user admin, the key is its password\n"
        return (
            f"API      {self.url}/api/v1   docs {self.url}/docs/\n"
            f"{flower if self._flower else ''}"
            f"Key      {self.key}\n"
            f"Logs     {self._directory / 'logs'}\n"
            "Ready. Ctrl-C stops everything."
        )

    def _start(self) -> None:
        enter = self._exits.enter_context
        enter(processes.lock_directory(self._directory))
        self._check_ports()
        self._check_redis()
        grace = min(self._settings.drain_grace, _MAX_GRACE)
        settings = replace(self._settings, data_dir=self._directory, drain_grace=grace)
        self.key = secrets.admin_key(settings)
        self.environ = {
            **environ_of(settings),
            **enter(services.start_services(settings)),
            f"{PREFIX}ADMIN_KEY": self.key,
            f"{PREFIX}SECRET_KEY": secrets.secret_key(settings),
            f"{PREFIX}TASK_EVENTS": "1" if self._flower else "0",
            "FLOWER_BASIC_AUTH": f"admin:{self.key}",
            "PYTHONUNBUFFERED": "1",
        }
        database_url = self.environ[f"{PREFIX}DATABASE_URL"]
        prepare_database(database_url, self.key, only=bool(settings.admin_key))
        programs = self._programs()
        engine = make_engine(database_url, pool_size=1, name="orchestrator-up")
        self._exits.callback(engine.dispose)
        with engine.connect() as connection:
            since = connection.scalar(text("SELECT now()"))
        self._supervisor = enter(
            supervisor.start_supervised(programs, self._directory, self.environ)
        )
        self._await_ready(Database(engine, lambda _: None), since)
        with open_private(self._directory / "url") as file:
            file.write(self.url)

    def _check_ports(self) -> None:
        """Raises Unavailable, with the remedy, for a port that cannot be used."""
        ports = [("the API", self._port, "--port")]
        if self._flower:
            remedy = f"{PREFIX}FLOWER_PORT, or start without Flower: --no-flower"
            ports.append(("Flower", self._settings.flower_port, remedy))
        for program, port, remedy in ports:
            if error := processes.port_error(port):
                raise Unavailable(
                    f"port {port}, for {program}, cannot be used ({error}); choose another one"
                    f" with {remedy}"
                )
        if self._flower and self._port == self._settings.flower_port:
            raise Unavailable(f"port {self._port} is for the API and for Flower; change one")

    def _check_redis(self) -> None:
        """Raises Unavailable for a Redis of the settings that does not answer."""
        if not (url := self._settings.redis_url):
            return
        from orchestrator.broker.client import Broker, make_app  # Celery takes half a second

        if not Broker(make_app(url, publisher=True)).ping():
            raise Unavailable(
                f"the Redis of {PREFIX}REDIS_URL does not answer; start it, or leave the setting"
                " empty: `up` brings one of its own"
            )

    def _programs(self) -> list[Program]:
        python = (sys.executable, "-m")
        api = (*python, "orchestrator", "api", "--port", str(self._port))
        programs = [
            Program("api", api, "api"),
            Program("scheduler", (*python, "orchestrator", "scheduler"), "scheduler"),
        ]
        for name in self._workers:
            command = worker_command(
                queues=self._queues, concurrency=self._concurrency, pool="prefork", name=name
            )
            programs.append(worker_program(name, command, _MAX_GRACE))
        if self._flower:
            # Nice: the work has priority over the page that shows it.
            command = ["nice", *flower_command(self._settings.flower_port)]
            programs.append(Program("flower", command, "flower"))
        return programs

    def _await_ready(self, database: Database, since: datetime) -> None:
        """Raise Unavailable, with the end of its log, for a program that does not become ready."""
        api, pids_seen = Client(self.url, self.key), dict[str, set[int]]()
        end = time.monotonic() + _READY_SECONDS
        while waiting := self._not_ready(api, database, since):
            for name, pids in waiting.items():
                pids_seen.setdefault(name, set()).update(pids)
            broken = [name for name in waiting if len(pids_seen[name]) > _MAX_STARTS]
            if broken or time.monotonic() > end or self._supervisor.poll() is not None:
                raise Unavailable(self._start_failure(database, broken or list(waiting)))
            time.sleep(0.1)

    def _not_ready(self, api: Client, database: Database, since: datetime) -> dict[str, list[int]]:
        """The programs that are not ready, with their pids."""
        with database.transaction() as session:
            started = started_processes(session, socket.gethostname(), since)
        pids = {name: self.pids(name) for name in [*self._workers, "scheduler", "api"]}
        ready = {name for name in self._workers if set(pids[name]) & set(started.workers)}
        if started.schedulers:
            ready.add("scheduler")
        if api.ready():
            ready.add("api")
        return {name: each for name, each in pids.items() if name not in ready}

    def _start_failure(self, database: Database, names: list[str]) -> str:
        """Which programs did not start and why, and the end of the first one's log."""
        with database.transaction() as session:
            errors = {row.worker: row.error for row in failed_starts(session)}
        host = socket.gethostname()
        lines = [
            f"{name} did not become ready: {errors.get(f'{name}@{host}', 'its log ends with')}"
            for name in names
        ]
        return "\n".join([*lines, self._log_tail(names[0])])

    def _log_tail(self, name: str) -> str:
        log = self._directory / "logs" / f"{name}.log"
        return (
            "\n".join(log.read_text(errors="replace").splitlines()[-40:])
            if log.exists()
            else "no log"
        )


def flower_command(port: int, address: str = "127.0.0.1") -> list[str]:
    """The command of Flower; FLOWER_BASIC_AUTH in its environment sets user and password."""
    return [
        sys.executable, "-m", "celery", "-A", "workers.flower", "flower",
        f"--address={address}", f"--port={port}", "--max_tasks=5000", "--loglevel=warning",
    ]  # fmt: skip
