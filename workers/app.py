"""Assembles a worker. Importing this reads the settings; connections are opened on first use."""

import gc
import logging
import os
import sys
import traceback
from collections.abc import Callable
from functools import cache
from typing import Any

from celery import signals
from sqlalchemy.exc import SQLAlchemyError

from config import logging as logs
from config.settings import PREFIX, Settings
from orchestrator.access.references import SecretSources, VaultMissing
from orchestrator.broker.client import Broker, make_app
from orchestrator.db.database import Database
from orchestrator.db.engine import make_engine
from orchestrator.json_values import clean_text
from orchestrator.monitoring import workers
from orchestrator.sdk.registry import Registry
from workers.celery_ext.pool import replace_children_after_use
from workers.celery_ext.thread_wakeup import WakeStep
from workers.celery_ext.transport import close_inherited_sockets
from workers.handlers import builtin_handlers
from workers.handlers.celery_apps import UnsupportedTask
from workers.handlers.celery_task import celery_handlers
from workers.isolation import failures, host, log_capture, processes
from workers.isolation.dead_children import OutputFolder
from workers.isolation.output_writer import OutputWriter

_MAX_CAUSE = 500  # characters of an exception

settings = Settings.from_env()
app = make_app(settings.redis_url, publisher=False, task_events=settings.task_events)
app.conf.include = [
    "workers.tasks",
    "workers.heartbeat",
    "workers.status_reports",
    "workers.draining",
    "workers.liveness",
    "workers.pool_size",
]
app.conf.broker_transport = "workers.celery_ext.transport:Transport"
# An error of Redis that is about a command, e.g. of a replica, makes it reconnect, not end.
app.conf.broker_channel_error_retry = True
app.steps["worker"].add(WakeStep)
replace_children_after_use()
app.conf.worker_consumer = "workers.celery_ext.consumer:PromptConsumer"
app.conf.worker_redirect_stdouts = False  # `log_capture` does, while a handler runs
# A loop that was blocked on Redis reads late that a child is ready; the default kills it after 4 s.
app.conf.worker_proc_alive_timeout = 60.0
app.conf.worker_max_tasks_per_child = settings.max_tasks_per_child or None
app.conf.worker_max_memory_per_child = settings.max_memory_per_child or None
database = Database(
    make_engine(settings.database_url, pool_size=4, name="orchestrator-worker", pre_ping=False),
    Broker(app).deliver,
)
registry = Registry()
queues: list[str] = []  # those it was started for
output_writer = OutputWriter(database, settings.log_lines)
output_folder = OutputFolder()


@cache
def secret_sources() -> SecretSources:
    """Where `secret://` is looked up. Raises VaultMissing."""
    return SecretSources.of(settings)


@signals.setup_logging.connect
def _configure_logging(**_: Any) -> None:
    logs.configure(settings.log_level)
    log_capture.install_capture()


@signals.celeryd_init.connect
def _load_handlers(sender: str, options: dict[str, Any], **_: Any) -> None:
    # Before the fork: the children share the modules' memory.
    queues.extend(options.get("queues") or [app.conf.task_default_queue])
    _record_start(workers.begin_start, sender, queues)
    try:
        secret_sources()
        builtins = builtin_handlers(
            allow_shell=settings.allow_shell,
            shell_env=settings.shell_env,
            http_private_targets=settings.http_private_targets,
        )
        registry.extend(builtins)
        registry.extend(Registry.load(settings.steps))
        registry.extend(celery_handlers(settings.steps, app))
    except (UnsupportedTask, VaultMissing) as error:
        sys.exit(f"Error: {error}")
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # also a module that calls sys.exit()
        # Celery ignores what a signal receiver raises, unless it is a SystemExit. Without its
        # handlers the worker would fail every step of its queues.
        traceback.print_exc()
        steps = ", ".join(settings.steps) or "none"
        reason = f"cannot load its step modules ({PREFIX}STEPS: {steps})"
        cause = clean_text(failures.failure_of(error).message)[:_MAX_CAUSE]
        _record_start(workers.fail_start, sender, queues, f"it {reason}: {cause}")
        sys.exit(f"Error: this worker {reason}")
    logging.getLogger(__name__).info("handlers loaded", extra={"handlers": registry.names()})


def _record_start(record: Callable[..., None], *values: Any) -> None:
    """Record the start for those who ask why a queue has no worker; it may be impossible."""
    try:
        with database.transaction() as session:
            record(session, *values)
    except SQLAlchemyError as error:
        logging.getLogger(__name__).warning("start not recorded", extra={"error": str(error)})


@signals.worker_init.connect
def _make_output_folder(**_: Any) -> None:
    output_folder.create()  # before the fork: the children inherit it
    processes.adopt_orphans()


@signals.worker_shutdown.connect
def _remove_output_folder(**_: Any) -> None:
    output_folder.remove()


@signals.worker_process_init.connect
def _start_child(**_: Any) -> None:
    # Imported modules stay, so a collection examines only what steps left behind. Without this a
    # full collection ran every few minutes only, with megabytes of garbage until then.
    gc.freeze()
    database.forget_connections()
    close_inherited_sockets()
    if output_folder.path and output_folder.parent != os.getpid():  # not in the pool `solo`
        try:
            output_writer.use_file(host.become_child(output_folder.path).file)
        except Exception:  # e.g. the disk is full; Celery ignores what a signal receiver raises
            traceback.print_exc()
            sys.exit(1)
