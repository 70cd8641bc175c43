"""Processes that cannot work do not start; they report the reason."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from config.settings import Settings, environ_of
from orchestrator.errors import Unavailable
from orchestrator.local import processes
from orchestrator.local.stack import Stack
from tests.conftest import Services

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
    assert "RuntimeError: no licence" in message
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
