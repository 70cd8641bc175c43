"""Which process has which secret, and that a step can read none of them in an environment."""

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from config.settings import PREFIX, Settings
from orchestrator.client import Client
from orchestrator.local import processes
from orchestrator.local.stack import Stack
from tests.conftest import Services
from tests.support.factories import KEY, eventually
from tests.support.processes import a_worker, ended, submit, the_worker

SECRETS = (
    "DATABASE_URL", "REDIS_URL", "SECRET_KEY", "ADMIN_KEY", "KEY", "SMTP_URL", "SECRET__TOKEN"
)  # fmt: skip
VARIABLES = {*(f"{PREFIX}{each}" for each in SECRETS), "FLOWER_BASIC_AUTH"}
# Prints the environments of the command, of its worker's child and of its worker.
ANCESTORS = """
    pid=$$
    for each in command child worker; do
        tr '\\0' '\\n' < /proc/$pid/environ
        pid=$(sed -n 's/^PPid:[[:space:]]*//p' /proc/$pid/status)
    done
"""


def _family(pid: int) -> list[psutil.Process]:
    first = psutil.Process(pid)
    return [first, *first.children(recursive=True)]


def _secrets_in(process: psutil.Process) -> set[str]:
    try:
        return VARIABLES & process.environ().keys()
    except psutil.NoSuchProcess:
        return set()


@pytest.mark.parametrize("name", ["supervisor", "api", "scheduler", "worker", "flower"])
def test_no_process_of_a_stack_has_a_secret_in_its_environment(stack: Stack, name: str) -> None:
    pids = [stack._supervisor.pid] if name == "supervisor" else stack.pids(name)

    assert pids
    for pid in pids:
        assert {each: _secrets_in(each) for each in _family(pid) if _secrets_in(each)} == {}


def test_up_has_no_secret_in_its_environment_and_processes_of_the_api_by_cores(
    services: Services, tmp_path: Path
) -> None:
    environ = {
        f"{PREFIX}DATABASE_URL": services.database_url,
        f"{PREFIX}REDIS_URL": services.redis_url,
        f"{PREFIX}ADMIN_KEY": KEY,
        f"{PREFIX}FLOWER_PORT": str(processes.free_port()),
        f"{PREFIX}SMTP_URL": "smtp://hush:hush@127.0.0.1:2525",
        f"{PREFIX}SECRET__TOKEN": "hush-token",
        "FLOWER_URL_PREFIX": "/flower",
    }
    command = [sys.executable, "-m", "orchestrator", "up", "--data-dir", str(tmp_path)]
    command += ["--port", str(processes.free_port())]

    with subprocess.Popen(
        command, env={**os.environ, **environ}, stdout=subprocess.PIPE, text=True
    ) as up:
        try:
            assert up.stdout
            greeting = iter(up.stdout.readline, "Ready. Ctrl-C stops everything.\n")
            assert f"Key      {KEY}" in "".join(greeting)
            family = _family(up.pid)
            assert len(family) >= 6
            served = [each for each in family if "api.app:serve()" in each.cmdline()]
            assert len(served) == 1 + Settings(api_processes=0).processes_of_api()
            assert {each: _secrets_in(each) for each in family if _secrets_in(each)} == {}
        finally:
            up.terminate()


@pytest.mark.parametrize("once", [True, False])
def test_no_process_of_a_worker_has_a_secret_in_its_environment(stack: Stack, once: bool) -> None:
    name = f"sealed-{once}".lower()
    with a_worker(stack, name, once=once) as process:
        eventually(lambda: the_worker(stack, name), within=30)

        family = _family(process.pid)

        assert len(family) >= 3
        assert {each: _secrets_in(each) for each in family if _secrets_in(each)} == {}


@pytest.mark.parametrize("command", ["env; echo $FLOWER_BASIC_AUTH", ANCESTORS])
def test_a_command_prints_no_secret(
    stack: Stack, client: Client, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    # As an operator may have exported them.
    for name in VARIABLES - {f"{PREFIX}DATABASE_URL", f"{PREFIX}REDIS_URL"}:
        monkeypatch.setenv(name, f"smtp://hush-{name}")
    printing = {"key": "s", "uses": "shell", "with": {"command": command}}

    with a_worker(stack, "printing", allow_shell="1"):
        spec = {"name": "printing", "queue": "printing", "steps": [printing]}
        run = ended(client, submit(client, spec)["id"], within=60)

    assert run["state"] == "succeeded"
    output = "\n".join(line["text"] for line in client.log(run["id"])["items"])
    assert "IDEMPOTENCY_KEY" in output
    assert f"PATH={os.environ['PATH']}" in output
    assert not [name for name in VARIABLES if f"{name}=" in output]
    assert "hush" not in output
    assert stack.key not in output
