"""Processes that cannot work do not start; they report the reason."""

import os
import socket
import subprocess
import sys
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import pytest
from sqlalchemy import Engine

from config.settings import Settings, environ_of
from orchestrator.client import Client
from orchestrator.db.database import Database
from orchestrator.errors import Unavailable
from orchestrator.local import processes
from orchestrator.local.stack import Stack
from orchestrator.monitoring.workers import failed_starts
from tests.conftest import Services
from tests.support.factories import eventually
from tests.support.processes import a_worker, ended, running, submit, the_worker

_TWICE = """
from orchestrator import step

@step(name="one")
def first(context): ...

@step(name="one")
def second(context): ...
"""
# Step modules that do not load: their source, and the expected error.
MODULES = {
    "nobody_wrote_this": (None, "No module named 'nobody_wrote_this'"),
    "half_written": ("def step(:", "SyntaxError"),
    "without_its_friend": ("import nobody_wrote_this", "No module named 'nobody_wrote_this'"),
    "in_a_circle": ("from in_a_circle import step", "partially initialized module"),
    "two_of_one_name": (_TWICE, "two handlers are called 'one'"),
    "wrong_at_once": ("raise RuntimeError('no licence')", "RuntimeError: no licence"),
    "leaves": ("import sys; sys.exit(0)", "SystemExit: 0"),
}


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Write the modules into a folder on PYTHONPATH."""
    for name, (source, _) in MODULES.items():
        if source is not None:
            (tmp_path / f"{name}.py").write_text(source)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")


@pytest.mark.usefixtures("modules")
@pytest.mark.parametrize("name", MODULES)
def test_a_worker_whose_step_modules_do_not_load_ends_with_the_traceback(
    settings: Settings, name: str
) -> None:
    environ = environ_of(replace(settings, steps=("tests.support.handlers", name)))
    command = [sys.executable, "-m", "orchestrator", "worker", "--once", "--name", name]

    ended = subprocess.run(
        command, env={**os.environ, **environ}, capture_output=True, text=True, timeout=60,
        check=False,
    )  # fmt: skip

    assert ended.returncode == 1
    assert "Traceback (most recent call last)" in ended.stderr
    assert MODULES[name][1] in ended.stderr
    last = ended.stderr.splitlines()[-1]
    assert last == (
        "Error: this worker cannot load its step modules"
        f" (ORCHESTRATOR_STEPS: tests.support.handlers, {name})"
    )


@pytest.mark.usefixtures("modules")
def test_a_stack_is_not_ready_without_its_workers(services: Services, tmp_path: Path) -> None:
    settings = Settings(
        database_url=services.database_url,
        redis_url=services.redis_url,
        data_dir=tmp_path,
        steps=("wrong_at_once",),
    )
    stack = Stack(settings, port=processes.free_port(), workers=2, flower=False)

    with pytest.raises(Unavailable) as raised, stack:
        pass

    message = str(raised.value)
    assert message.startswith(("worker-1 did not become ready:", "worker-2 did not become ready:"))
    assert message.splitlines()[0].endswith(
        ": it cannot load its step modules (ORCHESTRATOR_STEPS: wrong_at_once):"
        " RuntimeError: no licence"
    )
    assert "Traceback (most recent call last)" in message
    assert stack._supervisor.poll() is not None


def test_a_stack_is_not_ready_without_its_scheduler(
    services: Services, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\nif 'workers.scheduler.main' in sys.orig_argv: sys.exit('no scheduler today')\n"
    )
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    settings = Settings(
        database_url=services.database_url, redis_url=services.redis_url, data_dir=tmp_path
    )

    with (
        pytest.raises(Unavailable, match=r"(?s)scheduler did not become ready:.*no scheduler"),
        Stack(settings, port=processes.free_port(), flower=False),
    ):
        pass


@pytest.fixture
def database(engine: Engine) -> Database:
    """The database without a broker."""
    return Database(engine, lambda _: None)


def _failed(database: Database, worker: str) -> str | None:
    with database.transaction() as session:
        errors = {row.worker: row.error for row in failed_starts(session)}
    return errors.get(f"{worker}@{socket.gethostname()}")


def _pauses(log: Path) -> list[float]:
    """The seconds between an end of the program and its next start, from supervisord's log."""
    lines = [line.split(maxsplit=4) for line in log.read_text().splitlines()]
    times = {"exited:": list[datetime](), "spawned:": list[datetime]()}
    for day, time, _, event, *_ in lines:
        if event in times:
            times[event].append(datetime.fromisoformat(f"{day} {time.replace(',', '.')}"))
    pairs = zip(times["exited:"], times["spawned:"][1:], strict=False)
    return [(start - end).total_seconds() for end, start in pairs]


@pytest.mark.usefixtures("modules")
def test_a_supervised_worker_waits_longer_before_each_start_and_then_starts(
    stack: Stack, database: Database, tmp_path: Path
) -> None:
    source = f"from pathlib import Path\nif not Path({str(tmp_path / 'go')!r}).exists(): "
    (tmp_path / "mended.py").write_text(f"{source}raise RuntimeError('broken')\n")
    log = Path(stack.environ["ORCHESTRATOR_DATA_DIR"], "mended.log")

    with a_worker(stack, "mended", once=False, steps="mended"):
        eventually(log.exists)
        pauses = eventually(lambda: _pauses(log), within=90, until=lambda seen: len(seen) == 4)
        error = eventually(lambda: _failed(database, "mended"))
        (tmp_path / "go").touch()
        eventually(lambda: the_worker(stack, "mended"), within=60)
        eventually(lambda: _failed(database, "mended") is None)

    assert error == (
        "it cannot load its step modules (ORCHESTRATOR_STEPS: mended): RuntimeError: broken"
    )
    for number, pause in enumerate(pauses):  # supervisord looks once a second
        assert number <= pause < number + 3


@pytest.mark.usefixtures("modules")
def test_a_run_says_why_its_queue_has_no_worker(stack: Stack, client: Client) -> None:
    spec = {"name": "lost", "queue": "lost", "steps": [{"key": "s", "uses": "noop"}]}
    run = submit(client, spec)

    with a_worker(stack, "lost", once=False, steps="wrong_at_once"):
        cause = eventually(
            lambda: client.explain(run["id"])["cause"],
            within=60,
            until=lambda cause: "no licence" in cause["text"],
        )

    assert cause["code"] == "no_worker"
    assert f"lost@{socket.gethostname()} did not start: it cannot load" in cause["text"]


def test_a_stack_runs_in_a_folder_with_any_name(services: Services, tmp_path: Path) -> None:
    """Configuration, logs and artifacts are below it."""
    directory = tmp_path / "it's 100% %(here)s ;a #b ?c=d&e Größe"
    with running(directory, services.database_url, services.redis_url, workers=1) as stack:
        client = Client(stack.url, stack.key)
        step = {"key": "s", "uses": "tests.support.handlers.make_large"}
        run = submit(client, {"name": "large", "steps": [step]})

        assert ended(client, run["id"])["state"] == "succeeded"
        assert len(client.run(run["id"])["steps"]) == 1
        assert (directory / "logs" / "worker-1.log").stat().st_size > 0
