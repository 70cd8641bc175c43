"""Which process has which secret, and that a step can print none of them."""

import os

import psutil
import pytest

from config.settings import PREFIX
from orchestrator.client import Client
from orchestrator.local.stack import Stack
from tests.support.processes import a_worker, ended, submit

NEEDS = {
    "api": {"DATABASE_URL", "REDIS_URL", "SECRET_KEY"},
    "scheduler": {"DATABASE_URL", "REDIS_URL", "SECRET_KEY"},
    "worker": {"DATABASE_URL", "REDIS_URL"},
    "flower": {"REDIS_URL", "FLOWER_BASIC_AUTH"},
}
SECRETS = {"ADMIN_KEY", "KEY", "SMTP_URL"}.union(*NEEDS.values())


def _variable(secret: str) -> str:
    return secret if secret.startswith("FLOWER") else f"{PREFIX}{secret}"


def _secrets_in(pid: int) -> set[str]:
    environ = psutil.Process(pid).environ()
    return {each for each in SECRETS if environ.get(_variable(each))}


def test_every_process_has_the_secrets_that_it_needs_and_no_other(stack: Stack) -> None:
    for process, needed in NEEDS.items():
        pids = stack.pids(process)
        assert pids, process
        below = [each.pid for pid in pids for each in psutil.Process(pid).children(recursive=True)]
        for pid in [*pids, *below]:
            assert _secrets_in(pid) == needed, process
    assert _secrets_in(stack._supervisor.pid) == set()


def test_a_command_prints_no_secret(
    stack: Stack, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    for secret in SECRETS - {"DATABASE_URL", "REDIS_URL"}:  # as an operator may have exported them
        monkeypatch.setenv(_variable(secret), f"smtp://hush-{secret}")
    printed = {"key": "s", "uses": "shell", "with": {"command": "env; echo $FLOWER_BASIC_AUTH"}}

    with a_worker(stack, "printing", allow_shell="1"):
        spec = {"name": "printing", "queue": "printing", "steps": [printed]}
        run = ended(client, submit(client, spec)["id"], within=60)

    assert run["state"] == "succeeded"
    output = run["steps"][0]["result"]["stdout"]
    assert "IDEMPOTENCY_KEY" in output
    assert f"PATH={os.environ['PATH']}" in output
    assert not [line for line in output.splitlines() if "hush" in line or PREFIX in line]
    assert stack.key not in output
