"""Deliveries of a scheduler: killed between sending and recording; with silent receivers."""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from sqlalchemy import Engine, text

from config.settings import Settings, environ_of
from orchestrator.access import signing
from orchestrator.db.database import Database
from tests.support.factories import a_run, a_webhook, eventually, the_deliveries, the_run
from tests.support.processes import kill
from tests.support.webhook_receivers import answering_by, dripping
from workers.scheduler.main import Scheduler

SECRET_KEY = "a-secret-key-of-the-tests-of-deliveries"


def _with_targets(settings: Settings) -> Settings:
    return replace(settings, allow_private_targets=True, secret_key=SECRET_KEY)


@contextmanager
def _process(settings: Settings) -> Iterator[subprocess.Popen[bytes]]:
    """A scheduler in a process of its own."""
    command = [sys.executable, "-m", "workers.scheduler.main"]
    with subprocess.Popen(command, env={**os.environ, **environ_of(settings)}) as process:
        yield process
        process.terminate()


@contextmanager
def _scheduling(settings: Settings) -> Iterator[None]:
    """A scheduler in a thread."""
    scheduler = Scheduler(settings)
    thread = threading.Thread(target=scheduler.run)
    thread.start()
    try:
        yield
    finally:
        scheduler.end()
        thread.join()


def test_a_scheduler_killed_between_sending_and_recording_sends_again_under_the_same_id(
    database: Database, settings: Settings, engine: Engine
) -> None:
    with ExitStack() as exits:
        pids: list[int] = []

        def answer_and_kill(nth: int) -> tuple[int, dict[str, str]]:
            if nth == 1:
                kill(pids[0])
            return 200, {}

        receiver = exits.enter_context(answering_by(answer_and_kill))
        webhook = a_webhook(database, receiver.url)
        with _process(_with_targets(settings)) as process:
            pids.append(process.pid)
            a_run(database)
            process.wait(timeout=30)
        lost = the_deliveries(database)[0]
        with engine.begin() as connection:
            connection.execute(text("UPDATE deliveries SET next_at = now()"))
        exits.enter_context(_process(_with_targets(settings)))
        eventually(lambda: the_deliveries(database)[0].state == "delivered", within=30)

    assert (lost.state, lost.attempts) == ("waiting", 1)
    assert [each.id for each in receiver.requests] == [str(lost.id)] * 2
    assert receiver.requests[0].body == receiver.requests[1].body
    secret = signing.webhook_secret(SECRET_KEY, webhook.id, 1)
    assert all(each.is_signed_by(secret) for each in receiver.requests)


def test_silent_receivers_do_not_delay_the_sweeps(database: Database, settings: Settings) -> None:
    with ExitStack() as exits:
        exits.enter_context(_scheduling(_with_targets(settings)))
        silent = [exits.enter_context(dripping()) for _ in range(5)]
        for each in silent:
            a_webhook(database, each.url)
        for _ in range(4):
            a_run(database)
        eventually(lambda: sum(len(each.requests) for each in silent) == 8)
        run = a_run(database, run_at=datetime.now(UTC) + timedelta(seconds=0.3), window=0)
        began = datetime.now(UTC)
        eventually(lambda: the_run(database, run).state == "queued")
        took = datetime.now(UTC) - began
        on_their_way = sum(len(each.requests) for each in silent)

    assert took < timedelta(seconds=10)
    assert on_their_way == 8  # a tenant's share of the senders
