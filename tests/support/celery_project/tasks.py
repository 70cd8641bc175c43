"""Tasks that use what Celery offers to a task."""

import threading
import time
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar

from celery import Task, chain
from celery.contrib.abortable import AbortableTask
from celery.exceptions import Ignore, Reject, SoftTimeLimitExceeded

from tests.support.celery_project.celery import app


class Traced(Task):
    """A base class that writes down which of its handlers Celery calls."""

    calls: ClassVar[list[str]] = []

    def before_start(self, task_id: str, args: Any, kwargs: Any) -> None:
        """Begin the list."""
        self.calls[:] = ["before_start"]

    def on_success(self, retval: Any, task_id: str, args: Any, kwargs: Any) -> None:
        """Add to the list."""
        self.calls.append("on_success")

    def on_retry(self, exc: Any, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
        """Add to the list."""
        self.calls.append(f"on_retry {exc!r}")

    def on_failure(self, exc: Any, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
        """Add to the list."""
        self.calls.append(f"on_failure {exc!r}")

    def after_return(
        self, status: str, retval: Any, task_id: str, args: Any, kwargs: Any, einfo: Any
    ) -> None:
        """Add to the list."""
        self.calls.append(f"after_return {status}")


class Patient(Task):
    """A base class with a word of its own for a retry."""

    def retry(self, *args: Any, pause: int = 0, **kwargs: Any) -> Any:
        """Retry after a pause in minutes."""
        return super().retry(*args, **{"countdown": 60 * pause, **kwargs})


@app.task(name="project.patient", bind=True, base=Patient, autoretry_for=(KeyError,))
def patient(self: Any, automatic: bool) -> None:
    """Retry itself by the method of its class."""
    if automatic:
        raise KeyError("automatic")
    self.retry(pause=2)


class Counted(Task):
    """A base class that is called itself, and a task of its own."""

    name = "project.counted"
    calls = 0

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Count the calls."""
        self.calls += 1
        return super().__call__(*args, **kwargs)

    def run(self, value: Any) -> Any:
        """Return what the task knows of its call."""
        return {"value": value, "called_directly": self.request.called_directly}


app.register_task(Counted())


@app.task(name="project.add")
def add(left: int, right: int) -> int:
    """Return a sum."""
    return left + right


@app.task(name="project.request", bind=True)
def request(self: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
    """What the request says."""
    names = ("id", "retries", "args", "kwargs", "called_directly", "is_eager", "hostname")
    return {name: getattr(self.request, name) for name in names}


@app.task(name="project.flaky", bind=True, max_retries=3, base=Traced)
def flaky(self: Any, failures: int = 2, **options: Any) -> dict[str, Any]:
    """Retry itself so many times."""
    if self.request.retries < failures:
        raise self.retry(exc=ConnectionError("refused"), **{"countdown": 0.01} | options)
    return {"retries": self.request.retries}


@app.task(name="project.default_delay", bind=True, default_retry_delay=120)
def default_delay(self: Any) -> None:
    """Retry itself without saying when."""
    raise self.retry()


@app.task(name="project.eta", bind=True)
def eta(self: Any, naive: bool) -> None:
    """Retry itself at a time."""
    at = datetime.now(UTC) + timedelta(minutes=1)
    raise self.retry(eta=at.replace(tzinfo=None) if naive else at)


@app.task(name="project.endless", bind=True, max_retries=None)
def endless(self: Any, succeeds_at: int) -> int:
    """Retry itself without a limit."""
    if self.request.retries < succeeds_at:
        self.retry(countdown=0)
    return int(self.request.retries)


@app.task(
    name="project.automatic",
    bind=True,
    autoretry_for=(OSError,),
    dont_autoretry_for=(FileNotFoundError,),
    retry_backoff=2,
    retry_jitter=False,
    retry_kwargs={"max_retries": 4},
)
def automatic(self: Any, error: str) -> None:
    """Raise an exception that Celery may retry."""
    raise {"refused": ConnectionError, "missing": FileNotFoundError, "key": KeyError}[error](error)


@app.task(name="project.greedy", bind=True, autoretry_for=(Exception,), retry_backoff=True)
def greedy(self: Any) -> None:
    """Replace itself, and retry whatever that raises."""
    self.replace(add.s(1, 2))


@app.task(name="project.refused", bind=True)
def refused(self: Any, how: str) -> Any:
    """Do what a step cannot do."""
    if how == "replace":
        raise self.replace(chain(add.s(1, 2), add.s(3)))
    if how == "add_to_chord":
        return self.add_to_chord(add.s(1, 2))
    if how == "throw":
        return self.retry(throw=False) and "returned"
    if how == "queue":
        raise self.retry(queue="other")
    if how == "args":
        raise self.retry(args=["queue"])
    raise self.retry(kwargs={"how": how}, countdown=0)


@app.task(name="project.progress", bind=True)
def progress(self: Any, state: str, meta: Any) -> dict[str, Any]:
    """Report a state."""
    self.update_state(state=state, meta=meta)
    own = self.AsyncResult(self.request.id)
    return {"state": own.state, "info": own.info}


@app.task(name="project.ends", bind=True)
def ends(self: Any, how: str) -> Any:
    """End without returning."""
    if how == "ignore":
        raise Ignore("not now")
    if how == "reject":
        raise Reject("not mine")
    if how == "requeue":
        raise Reject("not yet", requeue=True)
    self.update_state(state=how, meta={"why": "its own choice"})
    raise Ignore


@app.task(name="project.throws", throws=(KeyError,))
def throws() -> None:
    """Raise what it is expected to raise."""
    raise KeyError("expected")


@app.task(name="project.unkept", ignore_result=True)
def unkept(value: Any = None) -> Any:
    """Return what is no JSON, unless it gets a value."""
    return object() if value is None else value


@app.task(name="project.nested", bind=True)
def nested(self: Any) -> list[Any]:
    """Call other tasks within this one."""
    return [add(1, 2), add.apply((3, 4)).get(disable_sync_subtasks=False), self.request.retries]


@app.task(name="project.slow", bind=True, soft_time_limit=0.3, time_limit=60)
def slow(self: Any, catches: bool) -> str:
    """Sleep past the soft time limit."""
    try:
        time.sleep(30)
    except SoftTimeLimitExceeded:
        if not catches:
            raise
    return "cleaned up"


@app.task(name="project.hard", time_limit=0.5)
def hard() -> None:
    """Sleep past the hard time limit."""
    time.sleep(30)


@app.task(name="project.waits", bind=True, base=AbortableTask)
def waits(self: Any) -> str:
    """Wait until it should stop, and say so before."""
    self.update_state(state="WAITING")
    pause = threading.Event()
    while not self.is_aborted():
        pause.wait(0.02)
    return "aborted"


@app.task(name="project.abortable", bind=True, base=AbortableTask, time_limit=0.5)
def abortable(self: Any) -> str:
    """Wait until it should stop."""
    pause = threading.Event()
    while not self.is_aborted():
        pause.wait(0.02)
    return "aborted"
