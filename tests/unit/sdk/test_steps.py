"""Steps and workflows in Python, and the registry of handlers."""

import doctest
import sys
from collections.abc import Callable
from datetime import timedelta
from types import ModuleType
from typing import Any

import pytest

import orchestrator
from orchestrator import FailStep, RetryPolicy, RetryStep, StepCancelled, StepContext, StepTimedOut
from orchestrator.errors import InvalidSpec
from orchestrator.sdk.registry import Registry
from orchestrator.sdk.steps import Handler, Workflow, step
from orchestrator.spec.parser import parse_spec


@step
def fetch(context: StepContext) -> list[int]:
    return [3, 4, int(context.params["more"])]


@step
def total(context: StepContext) -> int:
    return sum(context.results["fetch"])


def named(name: str, function: Callable[[StepContext], Any] = lambda context: None) -> Handler:
    return Handler(function, name)


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A module `acme_reports` that can be imported."""
    module = ModuleType("acme_reports")
    monkeypatch.setitem(sys.modules, "acme_reports", module)
    return module


def test_a_step_is_named_after_its_module_and_function() -> None:
    assert fetch.name == f"{__name__}.fetch"
    assert fetch.key == "fetch"


def test_a_step_may_have_a_name_and_a_key_of_its_own() -> None:
    @step(name="reports.fetch", key="FETCH")
    def handler(context: StepContext) -> None:
        pass

    assert (handler.name, handler.key) == ("reports.fetch", "FETCH")


def test_a_step_is_tested_by_calling_it() -> None:
    assert fetch(StepContext(params={"more": "5"})) == [3, 4, 5]
    assert total(StepContext(results={"fetch": [3, 4, 5]})) == 12


def test_a_context_is_made_of_nothing() -> None:
    context = StepContext()

    assert (context.params, context.args, context.results) == ({}, {}, {})
    assert context.attempt == 1
    assert not context.cancelled()


def test_contexts_share_nothing() -> None:
    assert StepContext().params is not StepContext().params


def test_a_workflow_runs_its_steps_in_the_order_they_are_given() -> None:
    daily = Workflow("daily", fetch, total, queue="slow", timeout=timedelta(minutes=90))

    assert daily.spec == {
        "name": "daily",
        "queue": "slow",
        "timeout": "1h30m",
        "steps": [
            {"key": "fetch", "uses": f"{__name__}.fetch"},
            {"key": "total", "uses": f"{__name__}.total"},
        ],
    }
    assert [each.needs for each in parse_spec(daily.spec).steps] == [(), ("fetch",)]


def test_the_options_of_a_step_are_those_of_a_spec() -> None:
    @step(
        key="TOTAL",
        needs=[fetch, "other"],
        args={"n": "{{ steps.fetch.result }}"},
        when="params.on",
        retry=RetryPolicy(attempts=5, delay=timedelta(milliseconds=500), on=("OSError",)),
        timeout=timedelta(minutes=2),
        queue="slow",
        priority=8,
        allow_failure=True,
        enabled=True,
    )
    def sum_up(context: StepContext) -> None:
        pass

    other = named("acme.other", total.function)
    other = Handler(other.function, other.name, {"key": "other"})

    assert Workflow("daily", fetch, other, sum_up).spec["steps"][2] == {
        "key": "TOTAL",
        "uses": f"{__name__}.sum_up",
        "needs": ["fetch", "other"],
        "with": {"n": "{{ steps.fetch.result }}"},
        "when": "params.on",
        "retry": {
            "attempts": 5,
            "delay": "500ms",
            "backoff": 2.0,
            "max_delay": "10m",
            "jitter": 0.0,
            "on": ["OSError"],
        },
        "timeout": "2m",
        "queue": "slow",
        "priority": 8,
        "allow_failure": True,
        "enabled": True,
    }


def test_a_policy_written_in_python_is_the_policy_that_is_read() -> None:
    policy = RetryPolicy(attempts=7, delay=timedelta(seconds=2), backoff=1.5, jitter=0.1, on=("E",))

    @step(retry=policy)
    def flaky(context: StepContext) -> None:
        pass

    assert parse_spec(Workflow("w", flaky).spec).steps[0].retry == policy


def test_a_step_may_need_nothing() -> None:
    @step(needs=[])
    def beside(context: StepContext) -> None:
        pass

    assert parse_spec(Workflow("w", fetch, beside).spec).steps[1].needs == ()


def test_a_wrong_workflow_does_not_import() -> None:
    @step(tiemout=3)  # type: ignore[call-overload, untyped-decorator]
    def misspelt(context: StepContext) -> None:
        pass

    with pytest.raises(InvalidSpec) as refusal:
        Workflow("w", misspelt)
    with pytest.raises(InvalidSpec):
        Workflow("w", fetch, fetch)

    assert [mistake.detail for mistake in refusal.value.mistakes] == [
        "unknown option 'tiemout'; did you mean 'timeout'?"
    ]


def test_a_registry_finds_handlers_by_name() -> None:
    registry = Registry([fetch, total])

    assert registry.get(fetch.name) is fetch
    assert registry.get("nothing") is None
    assert registry.names() == [fetch.name, total.name]


def test_a_registry_loads_the_handlers_of_modules(module: ModuleType) -> None:
    vars(module).update(fetch=fetch, alias=fetch, total=total, other=print, Workflow=Workflow)

    assert Registry.load(["acme_reports"]).names() == [fetch.name, total.name]


def test_a_module_that_does_not_import_is_an_import_error() -> None:
    with pytest.raises(ImportError, match="no_such_module"):
        Registry.load(["no_such_module"])


def test_two_handlers_of_one_name_are_refused(module: ModuleType) -> None:
    vars(module).update(one=named("acme.same", print), other=named("acme.same", repr))

    with pytest.raises(ImportError, match=r"two handlers are called 'acme\.same'"):
        Registry.load(["acme_reports"])


def test_a_registry_is_extended_by_another_unless_a_name_is_taken() -> None:
    registry = Registry([fetch])

    registry.extend(Registry([fetch, total]))

    assert registry.names() == [fetch.name, total.name]
    with pytest.raises(ImportError, match="two handlers are called"):
        registry.extend(Registry([named(fetch.name)]))


def test_catching_exceptions_does_not_catch_a_cancel() -> None:
    assert not issubclass(StepCancelled, Exception)
    assert not issubclass(StepTimedOut, Exception)
    assert issubclass(StepTimedOut, StepCancelled)


def test_a_handler_may_raise_a_retry_or_a_failure() -> None:
    later = RetryStep("not yet", after=timedelta(seconds=9))

    assert (str(later), later.after) == ("not yet", timedelta(seconds=9))
    assert RetryStep("not yet").after is None
    assert str(FailStep("never")) == "never"


def test_the_example_in_the_documentation_works() -> None:
    failed, tried = doctest.testmod(orchestrator)

    assert tried > 0
    assert failed == 0


def test_authors_of_steps_import_exactly_the_documented_names() -> None:
    assert set(orchestrator.__all__) == {
        "FailStep",
        "RetryPolicy",
        "RetryStep",
        "StepCancelled",
        "StepContext",
        "StepTimedOut",
        "Workflow",
        "step",
    }
    assert all(hasattr(orchestrator, name) for name in orchestrator.__all__)
