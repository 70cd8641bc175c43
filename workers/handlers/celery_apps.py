"""The Celery apps of an existing project, loaded as Celery's own worker loads them."""

import importlib
import importlib.util
import sys
from collections.abc import Iterable
from typing import Any

from celery import Celery, Task
from celery.app.task import Task as BaseTask

from orchestrator.broker.wire import TASK

# Options with a meaning that a step does not have, and that it would be wrong to ignore.
_UNSUPPORTED = ("rate_limit", "expires", "Strategy", "Request")


class UnsupportedTask(Exception):
    """A task has an option that cannot be kept when it runs as a step."""


def load_apps(modules: Iterable[str], own: Celery) -> list[Celery]:
    """The apps that the modules define or whose tasks they define, each with all its tasks.

    `own` is the app of this worker, which remains the current one.
    """
    apps: list[Celery] = []
    for name in modules:
        for value in _values(name):
            app = value.app if isinstance(value, Task) else value
            if issubclass(type(app), Celery) and app is not own and app not in apps:
                apps.append(app)
    try:
        for app in apps:
            app.set_current()
            app.loader.init_worker()  # its `include`, its `imports`, and what it discovers
            app.finalize()
    finally:
        own.set_current()
    return apps


def tasks_of(apps: Iterable[Celery], own: Celery) -> dict[str, Task]:
    """The tasks by name, each of the app that defines it.

    Celery copies the tasks of one app into all others. A task that no project's app has, as there
    is none, is one of `own`.
    """
    tasks: dict[str, Task] = {}
    for app in apps:
        for name, task in app.tasks.items():
            if name not in tasks or _is_defined_by(app, task):
                tasks[name] = task
    tasks = dict(own.tasks) | tasks
    return {
        name: task
        for name, task in tasks.items()
        if name != TASK and not name.startswith("celery.")
    }


def check_options(tasks: Iterable[Task]) -> None:
    """Raises UnsupportedTask with one sentence for each option that a step cannot keep."""
    mistakes = [
        f"Celery task {task.name!r} has {option}={value!r}, which cannot be kept when the task runs"
        f" as a step: remove the option, or set it to {_default(option)!r} by task_annotations"
        for task in tasks
        for option in _UNSUPPORTED
        if (value := getattr(task, option, None)) != _default(option)
    ]
    if mistakes:
        raise UnsupportedTask("; ".join(mistakes))


def _values(module: str) -> list[Any]:
    """What the module has; of a package also what its module `celery` has, as for `celery -A`."""
    package, inner = importlib.import_module(module), f"{module}.celery"
    values = list(vars(package).values())
    if hasattr(package, "__path__") and importlib.util.find_spec(inner):
        values += vars(importlib.import_module(inner)).values()
    return values


def _is_defined_by(app: Celery, task: Task) -> bool:
    """Whether the task's module has it as a task of this app."""
    value = getattr(sys.modules.get(task.__module__), type(task).__name__, None)
    return isinstance(value, Task) and value.app is app


def _default(option: str) -> Any:
    return getattr(BaseTask, option)
