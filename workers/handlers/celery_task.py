"""`celery:<task>`: an existing Celery task, unchanged, as a step.

The task's function is called inside the step, in this worker. The task's own routing, result and
retry settings are ignored; the step's apply.
"""

import importlib
from collections.abc import Iterable
from typing import Any

from celery import Celery, Task

from orchestrator import StepContext
from orchestrator.broker.client import TASK
from orchestrator.sdk.registry import Registry
from orchestrator.sdk.steps import Handler


def celery_handlers(modules: Iterable[str], *apps: Celery) -> Registry:
    """A handler for every task of these apps and of the Celery apps defined in the modules."""
    known = list(apps)
    for name in modules:
        values = vars(importlib.import_module(name)).values()
        known += [value for value in values if isinstance(value, Celery) and value not in known]
    tasks: dict[str, Any] = {name: task for app in known for name, task in app.tasks.items()}
    return Registry(
        Handler(_caller(task), f"celery:{name}")
        for name, task in tasks.items()
        if not name.startswith("celery.") and name != TASK
    )


def _caller(task: Task) -> Any:
    def call(context: StepContext) -> Any:
        """Call the task with `args` (a list) and `kwargs` of the step's `with`."""
        return task(*context.args.get("args", ()), **context.args.get("kwargs", {}))

    return call
