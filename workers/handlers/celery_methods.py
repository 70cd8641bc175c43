"""What the methods of a Celery task do while the task runs as a step.

Celery's own methods are replaced in its class `Task`, below whatever a project's classes override.
They are the original ones for any task that does not run as a step.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from inspect import signature
from typing import Any, NoReturn

from celery import Task, states
from celery.app.task import Context
from celery.app.task import Task as BaseTask
from celery.contrib.abortable import ABORTED
from celery.exceptions import Ignore, Retry

from orchestrator import StepContext

# Methods that cannot have a meaning in a step, and what would.
_REFUSED = {
    "replace": "call the other task, or make it a step of its own",
    "add_to_chord": "a step that needs several others joins them",
}
_MARKS = ("mark_as_done", "mark_as_failure", "mark_as_retry")


@dataclass
class TaskAttempt:
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


class StepBackend:
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

    def _attempt(self, task_id: str) -> TaskAttempt | None:
        return _attempt_of(self._task) if task_id == self._task.request.id else None


_retry_task: Callable[..., Any] = BaseTask.retry


def _retry(
    self: Task,
    args: Any = None,
    kwargs: Any = None,
    exc: Any = None,
    throw: bool = True,
    eta: Any = None,
    countdown: Any = None,
    max_retries: int | None = None,
    **options: Any,
) -> Any:
    """`Task.retry`: in a step it only raises Retry, and sends no message."""
    attempt = _attempt_of(self)
    if attempt is None:
        return _retry_task(self, args, kwargs, exc, throw, eta, countdown, max_retries, **options)
    if not throw or options:
        option = f"{next(iter(options))}=…" if options else "throw=False"
        attempt.refuse(f"celery:{self.name} calls self.retry({option}), which a step cannot do")
    policy = attempt.context.max_retries
    attempt.cause, attempt.max_retries = exc, max_retries
    attempt.waits_by_policy = policy is not None and eta is None and countdown is None
    limit = max_retries if policy is None else policy
    try:
        return _raise_retry(self, attempt, args, kwargs, exc, True, eta, countdown, limit)
    finally:
        if max_retries is None:  # the policy's number, which Celery keeps for all calls
            vars(self).pop("override_max_retries", None)


def _raise_retry(task: Task, attempt: TaskAttempt, *args: Any) -> Any:
    """Call Celery's `retry`, which raises Retry, or the task's exception after its last retry."""
    request = task.request
    request.is_eager = True  # Celery then sends no message
    try:
        return _retry_task(task, *args)
    except Retry as again:
        if not _same_call(task, request, again.sig):
            attempt.refuse(
                f"celery:{task.name} calls self.retry() with other arguments;"
                " each attempt of a step has those of its `with`"
            )
        raise
    finally:
        request.is_eager = False


def _same_call(task: Task, request: Context, again: Any) -> bool:
    """Whether a retry would call the task with the arguments of this attempt."""
    try:
        calls = [signature(task.run).bind(*each.args, **each.kwargs) for each in (request, again)]
    except TypeError:  # arguments that the task does not take
        return False
    for call in calls:
        call.apply_defaults()
    return calls[0] == calls[1]


def _refusal(name: str, instead: str) -> Callable[..., Any]:
    """A method that ends the step with the sentence that it cannot do this."""
    method: Callable[..., Any] = getattr(BaseTask, name)

    def refuse(self: Task, *args: Any, **kwargs: Any) -> Any:
        attempt = _attempt_of(self)
        if attempt is None:
            return method(self, *args, **kwargs)
        attempt.refuse(f"celery:{self.name} calls self.{name}(), which a step cannot do: {instead}")

    return refuse


BaseTask.retry = _retry
for _name, _instead in _REFUSED.items():
    setattr(BaseTask, _name, _refusal(_name, _instead))


def _attempt_of(task: Task) -> TaskAttempt | None:
    """The attempt that the task runs as now; None when another task has called it."""
    attempt: TaskAttempt | None = task.request.get("attempt")
    return attempt


def _first(fields: Mapping[str, Any], *names: str) -> Any:
    return next((fields[name] for name in names if fields.get(name) is not None), None)


def _number(fields: Mapping[str, Any], *names: str) -> float | None:
    value = _first(fields, *names)
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None
