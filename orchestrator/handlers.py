"""What the author of a step writes and what a worker calls: `@step`, `StepContext`, `Registry`.

How a step ends early is said by raising one of

    StepSignal (BaseException)
    ├── StepCancelled    the run was told to stop; raised *into* the handler
    │   └── StepTimedOut     the step's own timeout passed; raised into the handler too
    RetryStep            again later, if the retry policy has attempts left
    FailStep             no further attempt can help

StepCancelled is no `Exception`, as KeyboardInterrupt is none: a handler's `except Exception` must
not swallow the order to stop.
"""

import importlib
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from importlib.metadata import entry_points
from types import ModuleType
from typing import Any, overload

from config.durations import format_duration
from orchestrator.drafts import Content, Draft, Saved
from orchestrator.recorder import IdsByDate, Recorder
from orchestrator.specs import read_spec
from orchestrator.workflows import Retry

_LONGEST_WAIT = timedelta(days=365)
ENTRY_POINTS = "orchestrator.steps"


class StepSignal(BaseException):
    """An order that reaches a running handler from outside."""


class StepCancelled(StepSignal):
    """The run was told to stop, or its worker ends: clean up and let this pass."""


class StepTimedOut(StepCancelled):
    """The step's timeout passed: clean up and let this pass."""


class RetryStep(Exception):
    """Try this step again after a while, if its retry policy has attempts left."""

    def __init__(self, reason: str, after: timedelta | float | None = None) -> None:
        super().__init__(reason)
        if isinstance(after, int | float):
            after = timedelta(seconds=after)
        # None: as the retry policy says.
        self.after = after if after is None else max(timedelta(0), min(after, _LONGEST_WAIT))


class FailStep(Exception):
    """Fail this step now, whatever its retry policy says."""


@dataclass(frozen=True, kw_only=True)
class StepContext:
    """All that a handler is given, and all that it can say while it works.

    Every field has a default, so a test makes its own, and `recorder` shows it what was said.
    """

    run_id: str = ""
    workflow: str = ""
    step: str = ""  # the step's key
    attempt: int = 1
    # Its id, number, trigger, logical_date, variables, event_variables, run_as and environment.
    run: Mapping[str, Any] = field(default_factory=dict)
    params: Mapping[str, Any] = field(default_factory=dict)  # of the run
    args: Mapping[str, Any] = field(default_factory=dict)  # the step's `with`, templates filled in
    results: Mapping[str, Any] = field(default_factory=dict)  # by key, of the steps it needs
    idempotency_key: str = ""  # the same at every attempt, for calls to the outside world
    cancelled: Callable[[], bool] = lambda: False  # whether the step should stop
    log: logging.Logger = field(default_factory=lambda: logging.getLogger("step"))
    recorder: Recorder = field(default_factory=Recorder)

    def progress(
        self,
        done: float | None = None,
        total: float = 1,
        *,
        stage: str | None = None,
        message: str | None = None,
    ) -> None:
        """Say that so much of the total is done; what is left out stays as it was."""
        self.recorder.progress(done, total, stage, message)

    def metric(self, name: str, value: float) -> None:
        """Set a number that is shown with the step and its run."""
        self.recorder.metric(name, value)

    def warn(self, text: str, type: str = "warning") -> None:
        """Say that something is not as it should be, though the step goes on."""
        self.recorder.warn(text, type)

    def data(self, *, curves: IdsByDate | None = None, series: IdsByDate | None = None) -> None:
        """Say which curves and series were written: ids by date."""
        self.recorder.data(curves, series)

    def save(
        self,
        name: str,
        content: Content,
        *,
        kind: str = "data",
        title: str = "",
        primary: bool = False,
        records: int | None = None,
        media_type: str = "",
        **extra: Any,
    ) -> Saved:
        """Save a file of the run: bytes, text, a path, an open file, or pieces of bytes.

        `kind` is report, data, model or visualization; the media type is guessed by the name.
        The same name again replaces the file. Raises ValueError for what cannot be kept and
        FailStep for more bytes than one file may have.
        """
        draft = Draft(
            name=name,
            kind=kind,
            title=title,
            primary=primary,
            records=records,
            media_type=media_type,
            extra=extra,
        )
        return self.recorder.save(draft, content)


@dataclass(frozen=True)
class Handler:
    """A function that executes steps; still callable, so a step's test is a function call."""

    function: Callable[[StepContext], Any]
    name: str
    options: Mapping[str, Any] = field(default_factory=dict)  # the step's part of a spec

    def __call__(self, context: StepContext) -> Any:
        return self.function(context)

    @property
    def key(self) -> str:
        """The key of the step that `Workflow` makes of it."""
        return str(self.options.get("key", self.function.__name__))


@overload
def step(function: Callable[[StepContext], Any], /) -> Handler: ...
@overload
def step(
    *,
    name: str | None = None,
    key: str | None = None,
    needs: Sequence[Handler | str] | None = None,
    args: Mapping[str, Any] | None = None,
    when: str | None = None,
    retry: Retry | None = None,
    timeout: timedelta | None = None,
    queue: str | None = None,
    priority: int | None = None,
    allow_failure: bool | None = None,
    enabled: bool | None = None,
) -> Callable[[Callable[[StepContext], Any]], Handler]: ...
def step(
    function: Callable[[StepContext], Any] | None = None,
    /,
    *,
    name: str | None = None,
    needs: Sequence[Handler | str] | None = None,
    args: Mapping[str, Any] | None = None,
    retry: Retry | None = None,
    timeout: timedelta | None = None,
    **plain: Any,
) -> Handler | Callable[[Callable[[StepContext], Any]], Handler]:
    """Make a handler of a function of one `StepContext`.

    `name` is what specs call it, `module.function` by default. The other options are those of a
    step in a spec, and count when a `Workflow` is made of the handlers.
    """
    options: dict[str, Any] = {key: value for key, value in plain.items() if value is not None}
    if needs is not None:
        options["needs"] = [each if isinstance(each, str) else each.key for each in needs]
    if args is not None:
        options["with"] = dict(args)
    if retry is not None:
        options["retry"] = _retry_document(retry)
    if timeout is not None:
        options["timeout"] = format_duration(timeout)

    def decorate(function: Callable[[StepContext], Any]) -> Handler:
        return Handler(function, name or f"{function.__module__}.{function.__name__}", options)

    return decorate if function is None else decorate(function)


class Workflow:
    """A workflow written in Python: `Workflow("daily-report", fetch, total, announce)`.

    Its `spec` is the same document that YAML and REST give. Raises InvalidSpec at construction,
    so a wrong workflow does not import.
    """

    def __init__(self, name: str, *steps: Handler, **options: Any) -> None:
        if isinstance(options.get("timeout"), timedelta):
            options["timeout"] = format_duration(options["timeout"])
        documents = [{"key": each.key, "uses": each.name, **each.options} for each in steps]
        self.spec: dict[str, Any] = {"name": name, **options, "steps": documents}
        read_spec(self.spec)


class Registry:
    """The handlers that a worker process knows, by name."""

    def __init__(self, handlers: Iterable[Handler] = ()) -> None:
        self._handlers: dict[str, Handler] = {}
        for handler in handlers:
            self._add(handler)

    @classmethod
    def load(cls, modules: Iterable[str]) -> "Registry":
        """Import the modules, and those of the entry points `orchestrator.steps`, for handlers.

        Raises ImportError for a module that does not import.
        """
        found = [importlib.import_module(name) for name in modules]
        found += [point.load() for point in entry_points(group=ENTRY_POINTS)]
        return cls(handler for module in found for handler in _handlers_in(module))

    def extend(self, other: "Registry") -> None:
        """Add the handlers of another registry. Raises ImportError for a name taken twice."""
        for handler in other._handlers.values():
            self._add(handler)

    def get(self, name: str) -> Handler | None:
        """The handler with this name, if this worker has it."""
        return self._handlers.get(name)

    def names(self) -> list[str]:
        """Every name this worker knows."""
        return sorted(self._handlers)

    def _add(self, handler: Handler) -> None:
        known = self._handlers.setdefault(handler.name, handler)
        if known is not handler:
            raise ImportError(f"two handlers are called {handler.name!r}")


def _handlers_in(module: ModuleType) -> list[Handler]:
    return [value for value in vars(module).values() if isinstance(value, Handler)]


def _retry_document(retry: Retry) -> dict[str, Any]:
    return {
        "attempts": retry.attempts,
        "delay": format_duration(retry.delay),
        "backoff": retry.backoff,
        "max_delay": format_duration(retry.max_delay),
        "jitter": retry.jitter,
        "on": list(retry.on),
    }
