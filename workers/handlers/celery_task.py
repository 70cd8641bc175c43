"""`celery:<task>`: an existing Celery task, unchanged, as a step.

Celery's own tracer calls the task, so its request, its retries and the handlers of its class work
as in Celery's worker. What the tracer returns becomes the outcome of the attempt: a retry is a row
that waits, not a message. `docs/guide.md` says what each feature of a task means here.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from celery import Celery, Task, current_app, current_task, states
from celery.app.task import Context
from celery.app.trace import build_tracer
from celery.exceptions import Reject, Retry
from celery.utils.time import maybe_make_aware
from kombu.utils.uuid import uuid

from orchestrator import FailStep, RetryStep, StepContext
from orchestrator.json_values import result_mistake
from orchestrator.sdk.registry import Registry
from orchestrator.sdk.steps import Handler
from workers.handlers.celery_apps import check_options, load_apps, tasks_of
from workers.handlers.celery_methods import StepBackend, TaskAttempt

_UNLIMITED = 2**31  # attempts of a task with `max_retries=None`


def celery_handlers(modules: Iterable[str], own: Celery) -> Registry:
    """A handler for every task of the Celery apps in the modules, and for shared tasks.

    Raises UnsupportedTask for a task that cannot be a step.
    """
    tasks = tasks_of(load_apps(modules, own), own)
    check_options(tasks.values())
    return Registry(map(_handler, tasks.values()))


def _handler(task: Task) -> Handler:
    """The handler that runs the task as a step."""
    task.backend = StepBackend(task)
    trace = build_tracer(task.name, task, app=task.app)

    def call(context: StepContext) -> Any:
        """Call the task with `args` (a list) and `kwargs` of the step's `with`."""
        args, kwargs = _arguments(task, context.args)
        attempt = TaskAttempt(context)
        request = _request(task, attempt)
        vars(task).pop("override_max_retries", None)  # of another call: Celery leaves it there
        with _current(task.app):
            result, failure, *_ = trace(request["id"], args, kwargs, request)
        if attempt.refusal:
            raise FailStep(attempt.refusal)
        if failure is not None:
            return _end(task, attempt, failure.state, failure.retval)
        return None if task.ignore_result and result_mistake(result) else result

    return Handler(
        call,
        f"celery:{task.name}",
        timeout=task.time_limit or None,
        soft_timeout=task.soft_time_limit or None,
    )


def _request(task: Task, attempt: TaskAttempt) -> dict[str, Any]:
    """The task's request: that of the message which executes the step, with its own retries."""
    message = current_task.request if current_task else Context(id=uuid())
    return {
        "id": message.id,
        "task": task.name,
        "root_id": message.id,
        "correlation_id": message.id,
        "hostname": message.hostname,
        "delivery_info": message.delivery_info or {},
        "headers": {},
        "timelimit": [task.time_limit, task.soft_time_limit],
        "retries": attempt.context.retries,
        "is_eager": False,
        "attempt": attempt,
    }


def _arguments(task: Task, options: Mapping[str, Any]) -> tuple[list[Any], dict[str, Any]]:
    """The arguments of the task in the step's `with`."""
    args, kwargs = options.get("args", []), options.get("kwargs", {})
    others = sorted(options.keys() - {"args", "kwargs"})
    if others or not isinstance(args, list | tuple) or not isinstance(kwargs, Mapping):
        wrong = f"{others[0]!r} is neither" if others else "these are not"
        raise FailStep(
            f"with: celery:{task.name} takes `args`, a list, and `kwargs`, an object; {wrong}"
        )
    return list(args), dict(kwargs)


def _end(task: Task, attempt: TaskAttempt, state: str, error: Any) -> Any:
    """The end of an attempt whose task did not return: raises, or returns the result it stored."""
    if isinstance(error, Retry):
        after = None if attempt.waits_by_policy else _seconds_until(error.when, task.app)
        cause = attempt.cause or error.exc
        cause = cause if isinstance(cause, BaseException) else None
        raise RetryStep(str(error), after, attempts=_attempts(task, attempt)) from cause
    if isinstance(error, Reject):
        if error.requeue:
            reason = f"rejected, to be delivered again: {error.reason}"
            after = task.default_retry_delay if attempt.context.max_retries is None else None
            raise RetryStep(reason, after, attempts=_attempts(task, attempt))
        raise FailStep(f"the task rejected its message: {error.reason}")
    if state != states.IGNORED:
        raise error
    # A task may store the end of its own choice, and raise Ignore so that it stays.
    if attempt.state == states.SUCCESS:
        return attempt.meta
    if isinstance(attempt.meta, BaseException):
        raise attempt.meta
    if attempt.state == states.FAILURE:
        raise FailStep(f"the task set its state to FAILURE: {attempt.meta}")
    raise FailStep("the task raised Ignore, so it has no result")


def _attempts(task: Task, attempt: TaskAttempt) -> int:
    """How many attempts a step without a retry policy has."""
    limit = task.max_retries if attempt.max_retries is None else attempt.max_retries
    return _UNLIMITED if limit is None else limit + 1


def _seconds_until(when: Any, app: Celery) -> float | None:
    """The seconds until a retry; `when` is its countdown or its `eta`."""
    if isinstance(when, datetime):
        return float((maybe_make_aware(when, app.timezone) - datetime.now(UTC)).total_seconds())
    return None if when is None else float(when)


@contextmanager
def _current(app: Celery) -> Iterator[None]:
    """Make the app current in this thread, as shared tasks are sent by the current one."""
    previous = current_app._get_current_object()
    app.set_current()
    try:
        yield
    finally:
        previous.set_current()
