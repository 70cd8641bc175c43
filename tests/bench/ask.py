"""What several benches ask of a stack."""

import os
import subprocess
import sys
import time
from typing import Any

import requests
from sqlalchemy import Engine, create_engine, text

from config.settings import PREFIX
from orchestrator.batches import MOST
from orchestrator.client import Client
from orchestrator.stack import Stack

_ENDED = """
    SELECT count(*) FROM runs WHERE state = 'succeeded'
      AND workflow_id = (SELECT id FROM workflows WHERE name = :name)
"""
_STEPS_ENDED = """
    SELECT count(*) FROM runs JOIN steps ON steps.run_id = runs.id
    WHERE runs.workflow = :name AND steps.state = 'succeeded'
"""


def chain(name: str, steps: int, uses: str = "noop", **options: Any) -> dict[str, Any]:
    """A workflow of so many steps in a line."""
    step = {"uses": uses, **options.pop("step", {})}
    return {"name": name, **options, "steps": [{"key": f"s{n}", **step} for n in range(steps)]}


def engine_of(stack: Stack) -> Engine:
    """Connections to the stack's Postgres."""
    return create_engine(stack.environ[f"{PREFIX}DATABASE_URL"])


def scalar(engine: Engine, sql: str, **given: Any) -> Any:
    """The first value that a query finds."""
    with engine.connect() as connection:
        return connection.scalar(text(sql), given)


def session_of(stack: Stack, key: str = "") -> requests.Session:
    """Plain HTTP with the stack's key, or another one, on connections that stay open."""
    http = requests.Session()
    http.headers["Authorization"] = f"Bearer {key or stack.key}"
    return http


def new_tenant(stack: Stack, name: str) -> str:
    """The admin key of a new tenant."""
    command = [sys.executable, "-m", "orchestrator", "tenants", "create", name]
    environ = {**os.environ, **stack.environ}
    said = subprocess.run(command, env=environ, check=True, capture_output=True, text=True)
    return said.stdout.strip()


def one_run(http: requests.Session, stack: Stack, workflow: str) -> float:
    """Seconds from the POST until its answer says that the run has ended well."""
    began = time.perf_counter()
    asked = {"workflow": workflow}
    run = http.post(f"{stack.url}/api/v1/runs?wait=60", json=asked, timeout=90).json()
    assert run["state"] == "succeeded", run
    return time.perf_counter() - began


def submit_many(stack: Stack, workflow: str, runs: int, *, key: str = "") -> None:
    """Let so many runs be accepted."""
    client = Client(stack.url, key or stack.key)
    for first in range(0, runs, MOST):
        client.submit_many([{"workflow": workflow}] * min(MOST, runs - first))


def ended(engine: Engine, workflow: str) -> int:
    """How many runs of a workflow have gone well, by an index that knows it."""
    return int(scalar(engine, _ENDED, name=workflow))


def steps_ended(engine: Engine, workflow: str) -> int:
    """How many steps of a workflow's runs have gone well."""
    return int(scalar(engine, _STEPS_ENDED, name=workflow))
