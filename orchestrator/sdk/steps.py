"""Steps and workflows in Python: `@step`, `Workflow`.

A step ends early by one of

    StepSignal (BaseException)
    ├── StepCancelled    the run was cancelled; raised *into* the handler
    │   └── StepTimedOut     the step's own timeout passed; raised into the handler too
    RetryStep            retried later, if the retry policy has attempts left
    FailStep             not retried

StepCancelled is no `Exception`, as KeyboardInterrupt is none: a handler's `except Exception` must
not swallow it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, overload

from orchestrator.sdk.context import StepContext
from orchestrator.spec.durations import format_duration
from orchestrator.spec.model import RetryPolicy
from orchestrator.spec.parser import parse_spec


@dataclass(frozen=True)
class Handler:
    """A function that executes steps; callable, so a step's test is a function call."""

    function: Callable[[StepContext], Any]
    name: str
    options: Mapping[str, Any] = field(default_factory=dict)  # the step's part of a spec
    # Seconds, of a step without a timeout. At the soft one SoftTimeLimitExceeded is raised.
    timeout: float | None = None
    soft_timeout: float | None = None

    def __call__(self, context: StepContext) -> Any:
        return self.function(context)

    @property
    def key(self) -> str:
        """The key of its step in a `Workflow`."""
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
    retry: RetryPolicy | None = None,
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
    retry: RetryPolicy | None = None,
    timeout: timedelta | None = None,
    **others: Any,
) -> Handler | Callable[[Callable[[StepContext], Any]], Handler]:
    """Make a handler of a function of one `StepContext`.

    `name` is its name in specs, `module.function` by default. The other options are those of a
    step in a spec; a `Workflow` of the handlers uses them.
    """
    options: dict[str, Any] = {key: value for key, value in others.items() if value is not None}
    if needs is not None:
        options["needs"] = [each if isinstance(each, str) else each.key for each in needs]
    if args is not None:
        options["with"] = dict(args)
    if retry is not None:
        options["retry"] = retry.to_spec()
    if timeout is not None:
        options["timeout"] = format_duration(timeout)

    def decorate(function: Callable[[StepContext], Any]) -> Handler:
        return Handler(function, name or f"{function.__module__}.{function.__name__}", options)

    return decorate if function is None else decorate(function)


class Workflow:
    """A workflow written in Python: `Workflow("daily-report", fetch, total, announce)`.

    Its `spec` is the same document as in YAML and REST. Raises InvalidSpec at construction, so the
    module of a wrong workflow does not import.
    """

    def __init__(self, name: str, *steps: Handler, **options: Any) -> None:
        if isinstance(options.get("timeout"), timedelta):
            options["timeout"] = format_duration(options["timeout"])
        documents = [{"key": each.key, "uses": each.name, **each.options} for each in steps]
        self.spec: dict[str, Any] = {"name": name, **options, "steps": documents}
        parse_spec(self.spec)
