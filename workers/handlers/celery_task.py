"""`celery:<task>`: an existing Celery task, unchanged, as a step.

Celery's own tracer calls the task, so its request, its retries and the handlers of its class work
as in Celery's worker. What the tracer returns becomes the outcome of the attempt: a retry is a row
that waits, not a message. `docs/guide.md` says what each feature of a task means here.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from inspect import signature
from typing import Any, NoReturn

from celery import Celery, Task, current_app, current_task, states
from celery.app.task import Context
from celery.app.trace import build_tracer
from celery.contrib.abortable import ABORTED
from celery.exceptions import Ignore, Reject, Retry
from celery.utils.time import maybe_make_aware
from kombu.utils.uuid import uuid

from orchestrator import FailStep, RetryStep, StepContext
from orchestrator.json_values import result_mistake
from orchestrator.sdk.registry import Registry
from orchestrator.sdk.steps import Handler
from workers.handlers.celery_apps import check_options, load_apps, tasks_of

# Methods of a task that cannot have a meaning in a step, and what would.
_REFUSED = {
    "replace": "call the other task, or make it a step of its own",
    "add_to_chord": "a step that needs several others joins them",
}
_MARKS = ("mark_as_done", "mark_as_failure", "mark_as_retry")
_UNLIMITED = 2**31  # attempts of a task with `max_retries=None`


def celery_handlers(modules: Iterable[str], own: Celery) -> Registry:
    """A handler for every task of the Celery apps in the modules, and for shared tasks.

    Raises UnsupportedTask for a task that cannot be a step.
    """
    tasks = tasks_of(load_apps(modules, own), own)
    check_options(tasks.values())
    return Registry(map(_handler, tasks.values()))


@dataclass
class _Attempt:
    """What one call of a task as a step leaves for its outcome."""

    context: StepContext
    state: str = states.STARTED  # the last one that the task reported
    meta: Any = None
    cause: Any = None  # of a retry
    max_retries: int | None = None
    waits_by_policy: bool = False  # the task has not said when to retry
    refusal: str = ""

    def refuse(self, sentence: str) -> NoReturn:
        """End the task; unlike a FailStep, `autoretry_for` does not catch an Ignore."""
        self.refusal = sentence
        raise Ignore(sentence)

    def report(self, state: str | None, meta: Any) -> None:
        """Make progress of a state and its `meta`."""
        self.state, self.meta = state or self.state, meta
        fields = meta if isinstance(meta, Mapping) else {"message": meta}
        done, total = _number(fields, "current", "done"), _number(fields, "total")
        if done is None or total is None:
            done, total = _number(fields, "percent"), 100
        self.context.progress(
            done,
            total,
            stage=state,
            message=_first(fields, "message", "status", "description"),
        )


class _Backend:
    """The result backend of a task: that of its app, but for the step that the task runs as."""

    def __init__(self, task: Task) -> None:
        self._task = task

    def __getattr__(self, name: str) -> Any:
        if name in _MARKS and _attempt_of(self._task):
            return lambda *_, **__: None  # the row has the outcome
        return getattr(self._task.app.backend, name)

    def store_result(
        self, task_id: str, result: Any, state: str, *more: Any, **options: Any
    ) -> Any:
        """What `update_state` calls."""
        attempt = self._attempt(task_id)
        if attempt is None:
            return self._task.app.backend.store_result(task_id, result, state, *more, **options)
        return attempt.report(state, result)

    def get_task_meta(self, task_id: str, *more: Any, **options: Any) -> Any:
        """What the `AsyncResult` of the task reads; `ABORTED` once the step should stop."""
        attempt = self._attempt(task_id)
        if attempt is None:
            return self._task.app.backend.get_task_meta(task_id, *more, **options)
        state = ABORTED if attempt.context.cancelled() else attempt.state
        return {"status": state, "result": attempt.meta}

    def _attempt(self, task_id: str) -> _Attempt | None:
        return _attempt_of(self._task) if task_id == self._task.request.id else None


def _handler(task: Task) -> Handler:
    """The handler that runs the task as a step."""
    task.backend = _Backend(task)
    task.retry = _retry(task)
    for name, instead in _REFUSED.items():
        setattr(task, name, _refusal(task, name, instead))
    trace = build_tracer(task.name, task, app=task.app)

    def call(context: StepContext) -> Any:
        """Call the task with `args` (a list) and `kwargs` of the step's `with`."""
        args, kwargs = _arguments(task, context.args)
        attempt = _Attempt(context)
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


def _request(task: Task, attempt: _Attempt) -> dict[str, Any]:
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


def _end(task: Task, attempt: _Attempt, state: str, error: Any) -> Any:
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


def _attempts(task: Task, attempt: _Attempt) -> int:
    """How many attempts a step without a retry policy has."""
    limit = task.max_retries if attempt.max_retries is None else attempt.max_retries
    return _UNLIMITED if limit is None else limit + 1


def _seconds_until(when: Any, app: Celery) -> float | None:
    """The seconds until a retry; `when` is its countdown or its `eta`."""
    if isinstance(when, datetime):
        return float((maybe_make_aware(when, app.timezone) - datetime.now(UTC)).total_seconds())
    return None if when is None else float(when)


def _retry(task: Task) -> Callable[..., Any]:
    """`Task.retry` that sends no message."""
    retry_task = task.retry

    def retry(
        args: Any = None,
        kwargs: Any = None,
        exc: Any = None,
        throw: bool = True,
        eta: Any = None,
        countdown: Any = None,
        max_retries: int | None = None,
        **options: Any,
    ) -> Any:
        attempt, request = _attempt_of(task), task.request
        if attempt is None:  # called by another task
            return retry_task(args, kwargs, exc, throw, eta, countdown, max_retries, **options)
        if not throw or options:
            option = f"{next(iter(options))}=…" if options else "throw=False"
            attempt.refuse(f"celery:{task.name} calls self.retry({option}), which a step cannot do")
        policy = attempt.context.max_retries
        attempt.cause, attempt.max_retries = exc, max_retries
        attempt.waits_by_policy = policy is not None and eta is None and countdown is None
        request.is_eager = True  # Celery then only raises
        try:
            limit = max_retries if policy is None else policy
            return retry_task(args, kwargs, exc, throw, eta, countdown, limit)
        except Retry as again:
            if not _same_call(task, request, again.sig):
                attempt.refuse(
                    f"celery:{task.name} calls self.retry() with other arguments;"
                    " each attempt of a step has those of its `with`"
                )
            raise
        finally:
            request.is_eager = False
            if max_retries is None:  # the policy's number, which Celery keeps for all calls
                vars(task).pop("override_max_retries", None)

    return retry


def _same_call(task: Task, request: Context, again: Any) -> bool:
    """Whether a retry would call the task with the arguments of this attempt."""
    try:
        calls = [signature(task.run).bind(*each.args, **each.kwargs) for each in (request, again)]
    except TypeError:  # arguments that the task does not take
        return False
    for call in calls:
        call.apply_defaults()
    return calls[0] == calls[1]


def _refusal(task: Task, name: str, instead: str) -> Callable[..., Any]:
    """A method that ends the step with the sentence that it cannot do this."""
    method = getattr(task, name)

    def refuse(*args: Any, **kwargs: Any) -> Any:
        attempt = _attempt_of(task)
        if attempt is None:
            return method(*args, **kwargs)
        attempt.refuse(f"celery:{task.name} calls self.{name}(), which a step cannot do: {instead}")

    return refuse


def _attempt_of(task: Task) -> _Attempt | None:
    """The attempt that the task runs as now; None when another task has called it."""
    attempt: _Attempt | None = task.request.get("attempt")
    return attempt


@contextmanager
def _current(app: Celery) -> Iterator[None]:
    """Make the app current in this thread, as shared tasks are sent by the current one."""
    previous = current_app._get_current_object()
    app.set_current()
    try:
        yield
    finally:
        previous.set_current()


def _first(fields: Mapping[str, Any], *names: str) -> Any:
    return next((fields[name] for name in names if fields.get(name) is not None), None)


def _number(fields: Mapping[str, Any], *names: str) -> float | None:
    value = _first(fields, *names)
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None
