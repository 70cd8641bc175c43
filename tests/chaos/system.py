"""The system under chaos: all processes are real, and the services are behind proxies."""

import importlib.util
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psutil
from sqlalchemy import Engine

from config.settings import PREFIX, Settings
from orchestrator.client import Client
from orchestrator.db.database import Database
from orchestrator.db.engine import make_engine
from orchestrator.local import supervisor
from orchestrator.local.processes import free_port
from orchestrator.local.stack import Stack, worker_command
from orchestrator.local.supervisor import Program
from tests.chaos import steps
from tests.chaos.fragile import FragilePostgres, FragileRedis
from tests.chaos.proxy import Proxy
from tests.support.factories import KEY, eventually

PROGRAMS = {"api": 1, "scheduler": 2, "worker": 2}  # the number of each
CHILDREN = 3  # of each worker: one more than lingering and resisting steps keep busy
PATIENCE = 90.0  # seconds after which a recovery counts as failed
_SETTLE_TIME = 1.5  # seconds after which a supervisor considers a program running

# Recognises the programs by their command lines.
_MARKS = {"api": "api.app:serve", "scheduler": "scheduler", "worker": "--hostname worker-"}


@dataclass(frozen=True)
class System:
    """API, two schedulers, two workers of two children each, Postgres and Redis.

    The second scheduler and the second worker are on a machine with a clock of its own.
    """

    stack: Stack
    postgres: FragilePostgres
    redis: FragileRedis
    to_postgres: Proxy
    to_redis: Proxy
    engine: Engine  # directly to Postgres
    settings: Settings
    directory: Path
    clock: Path  # a file with the offset of the second machine's clock

    @property
    def diary(self) -> Path:
        """The folder of the recorded executions."""
        return _diary(self.directory)

    def programs(self, kind: str) -> list[psutil.Process]:
        """The running supervised processes of a kind: API, schedulers or workers; at least one.

        They have run long enough that a kill is no failed start.
        """
        return eventually(lambda: self._settled()[kind], within=PATIENCE, every=0.3)

    def await_whole(self) -> None:
        """Wait until all programs run, and the API responds."""
        client = Client(self.stack.url, self.stack.key)

        def missing() -> list[str]:
            programs = self._settled()
            absent = [kind for kind, count in PROGRAMS.items() if len(programs[kind]) != count]
            return absent or ([] if client.ready() else ["a response"])

        eventually(missing, within=PATIENCE, until=lambda kinds: not kinds, every=0.3)

    def _settled(self) -> dict[str, list[psutil.Process]]:
        return {
            kind: [each for each in programs if _has_settled(each)]
            for kind, programs in self._all_programs().items()
        }

    def _all_programs(self) -> dict[str, list[psutil.Process]]:
        started = psutil.Process().children(recursive=True)  # once: it reads all of /proc
        lines = {each.pid: _cmdline(each) for each in started}
        supervisors = {pid for pid, line in lines.items() if f"{self.directory}/" in line}
        supervised = [each for each in started if _parent(each) in supervisors]
        return {
            kind: [each for each in supervised if mark in lines[each.pid]]
            for kind, mark in _MARKS.items()
        }

    def rows(self, statement: Any, **params: Any) -> list[Any]:
        """The rows of a statement, directly from Postgres, once it is available."""
        database = Database(self.engine, lambda _: None)
        within = timedelta(seconds=PATIENCE)
        return database.run_with_retry(
            lambda session: list(session.execute(statement, params)), within=within
        )

    def set_clock(self, offset: str) -> None:
        """Set the offset of the second machine's clock."""
        self.clock.write_text(f"{offset}\n")

    def logs(self) -> Iterator[str]:
        """The lines of the workers' logs."""
        for path in sorted(self.directory.glob("**/logs/worker-*.log*")):
            with path.open(errors="replace") as log:
                yield from log


@contextmanager
def chaotic_system(lease: timedelta, grace: timedelta) -> Iterator[System]:
    """The system; everything is removed afterwards."""
    # Not pytest's folder: the user that runs Postgres may not enter it.
    folder = TemporaryDirectory(prefix="orchestrator-chaos-", ignore_cleanup_errors=True)
    with ExitStack() as exits:
        directory = Path(exits.enter_context(folder)).resolve()
        postgres = FragilePostgres(directory / "pg")
        exits.callback(postgres.stop)
        redis = FragileRedis(directory / "redis")
        exits.callback(redis.kill)
        to_postgres, to_redis = Proxy(postgres.socket), Proxy(redis.port)
        exits.callback(to_postgres.end)
        exits.callback(to_redis.end)
        settings = Settings(
            database_url=postgres.url_at(to_postgres.port),
            redis_url=redis.url_at(to_redis.port),
            data_dir=directory,
            admin_key=KEY,
            steps=("tests.support.handlers", "tests.chaos.steps"),
            lease=lease,
            cancel_grace=grace,
        )
        _diary(directory).mkdir()
        os.environ[steps.DIARY] = str(_diary(directory))
        exits.callback(os.environ.pop, steps.DIARY)
        stack = exits.enter_context(
            Stack(
                settings,
                port=free_port(),
                workers=1,
                concurrency=CHILDREN,
                flower=False,
            )
        )
        clock = directory / "clock"
        clock.write_text("+0\n")
        second = directory / "second"
        environ = {**stack.environ, f"{PREFIX}DATA_DIR": str(directory)}
        second_supervisor = exits.enter_context(
            supervisor.start_supervised(_second_machine(clock), second, environ)
        )
        exits.callback(_end, stack._supervisor, second_supervisor)
        engine = make_engine(postgres.url, pool_size=24)
        exits.callback(engine.dispose)
        system = System(
            stack, postgres, redis, to_postgres, to_redis, engine, settings, directory, clock
        )
        yield system


def _second_machine(clock: Path) -> list[Program]:
    """A scheduler and a worker whose wall clock has the offset in the file."""
    spec = importlib.util.find_spec("libfaketime")
    assert spec is not None
    assert spec.origin is not None
    library = Path(spec.origin).parent / "vendor/libfaketime/src/libfaketime.so.1"
    assert library.exists()
    wrong = (
        "env", f"LD_PRELOAD={library}", f"FAKETIME_TIMESTAMP_FILE={clock}",
        "FAKETIME_CACHE_DURATION=1", "DONT_FAKE_MONOTONIC=1", "FAKETIME_DONT_FAKE_MONOTONIC=1",
    )  # fmt: skip
    worker = worker_command(queues="default", concurrency=CHILDREN, pool="prefork", name="worker-2")
    scheduler = (sys.executable, "-m", "orchestrator", "scheduler")
    return [
        Program("scheduler-2", (*wrong, *scheduler), "scheduler"),
        Program("worker-2", (*wrong, *worker), "worker"),
    ]


def _end(*supervisors: subprocess.Popen[bytes]) -> None:
    """Kill them and all their descendants."""
    processes = [psutil.Process(each.pid) for each in supervisors]
    for process in processes + [child for each in processes for child in each.children(True)]:
        with suppress(psutil.NoSuchProcess):
            process.kill()


def _diary(directory: Path) -> Path:
    return directory / "diary"


def _cmdline(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:  # it has just ended
        return ""


def _parent(process: psutil.Process) -> int:
    try:
        return int(process.ppid())
    except psutil.Error:
        return 0


def _has_settled(program: psutil.Process) -> bool:
    try:
        is_whole = _MARKS["worker"] not in _cmdline(program) or len(program.children()) >= CHILDREN
        return is_whole and time.time() - program.create_time() > _SETTLE_TIME
    except psutil.Error:  # it has just ended
        return False
