"""An API of two processes, of which one is killed while runs are submitted and followed."""

import os
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil

from orchestrator.client import Client
from orchestrator.local.stack import Stack
from tests.conftest import Services
from tests.support.factories import a_spec, eventually
from tests.support.processes import ended, running

RUNS, CLIENTS = 20, 4


def _processes(stack: Stack) -> list[int]:
    (master,) = stack.pids("api")
    return [each.pid for each in psutil.Process(master).children()]


def test_the_other_process_goes_on_and_no_accepted_run_is_lost(
    services: Services, tmp_path: Path
) -> None:
    with running(
        tmp_path, services.database_url, services.redis_url, settings={"api_processes": 2}
    ) as stack:
        client = Client(stack.url, stack.key)
        client.apply(a_spec("twins", steps=2))
        before, submitted = _processes(stack), list[str]()

        def submit() -> None:
            own = Client(stack.url, stack.key)
            for _ in range(RUNS):
                submitted.append(own.submit("twins", {})["id"])

        with ThreadPoolExecutor(CLIENTS) as pool:
            tasks = [pool.submit(submit) for _ in range(CLIENTS)]
            eventually(lambda: len(submitted) > RUNS)
            os.kill(before[0], signal.SIGKILL)
            for task in tasks:
                task.result(60)

        assert len(set(submitted)) == CLIENTS * RUNS
        assert {ended(client, run)["state"] for run in submitted} == {"succeeded"}
        after = eventually(lambda: _processes(stack), until=lambda pids: len(pids) == 2)
        assert before[1] in after
