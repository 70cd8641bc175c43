"""Celery tasks as steps: how they are loaded, and what each feature of a task makes of its step."""

import sys
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from types import ModuleType
from typing import Any

import pytest
from celery import Celery, current_app

from orchestrator import FailStep, RetryStep, StepContext
from orchestrator.sdk.registry import Registry
from tests.support.celery_project import tasks
from workers.handlers.celery_apps import UnsupportedTask, load_apps, tasks_of
from workers.handlers.celery_task import celery_handlers

PROJECT = "tests.support.celery_project"
MINUTE = timedelta(minutes=1)


@pytest.fixture(scope="module")
def own() -> Celery:
    """The worker's own app."""
    return Celery("own", broker="memory://")


@pytest.fixture(scope="module")
def registry(own: Celery) -> Registry:
    """The handlers of the project."""
    return celery_handlers([f"{PROJECT}.celery"], own)


Call = Callable[..., Any]


def seven() -> int:
    """A task that does nothing."""
    return 7


@pytest.fixture
def call(registry: Registry) -> Call:
    """Call a task with arguments, as a step with this context."""

    def call(name: str, *args: Any, context: StepContext | None = None, **kwargs: Any) -> Any:
        handler = registry.get(f"celery:project.{name}")
        assert handler
        context = context or StepContext()
        return handler(
            StepContext(**{**vars(context), "args": {"args": list(args), "kwargs": kwargs}})
        )

    return call


@pytest.fixture
def define(monkeypatch: pytest.MonkeyPatch) -> Callable[[Celery], str]:
    """A module with this app; its name."""

    def define(app: Celery) -> str:
        module = ModuleType("one_app")
        module.__dict__["app"] = app
        monkeypatch.setitem(sys.modules, "one_app", module)
        return "one_app"

    return define


@pytest.mark.parametrize("module", [PROJECT, f"{PROJECT}.celery", f"{PROJECT}.tasks"])
def test_an_app_is_loaded_with_all_its_tasks(module: str, own: Celery) -> None:
    names = celery_handlers([module], own).names()

    assert {"celery:project.add", "celery:project.shared", "celery:project.discovered"} <= set(
        names
    )
    assert not [name for name in names if name.startswith("celery:celery.")]
    assert current_app.main == "own"


def test_a_task_belongs_to_the_app_that_defines_it(
    own: Celery, define: Callable[[Celery], str]
) -> None:
    other = Celery("other", broker="memory://", set_as_current=False)

    for modules in ([define(other), f"{PROJECT}.celery"], [f"{PROJECT}.celery", define(other)]):
        tasks = tasks_of(load_apps(modules, own), own)
        assert tasks["project.add"].app.main == "project"


@pytest.mark.parametrize(
    ("option", "value"),
    [("rate_limit", "10/m"), ("expires", 60), ("Strategy", "batches:Strategy"), ("Request", "x:Y")],
)
def test_an_option_that_cannot_be_kept_is_refused_by_name(
    option: str, value: Any, own: Celery, define: Callable[[Celery], str]
) -> None:
    app = Celery("limits", broker="memory://", set_as_current=False)
    app.task(seven, shared=False, name="limits.sms", **{option: value})

    with pytest.raises(UnsupportedTask) as raised:
        celery_handlers([define(app)], own)

    assert f"Celery task 'limits.sms' has {option}={value!r}" in str(raised.value)


def test_a_setting_for_all_tasks_counts_as_the_option_of_each(
    own: Celery, define: Callable[[Celery], str]
) -> None:
    app = Celery("limits", broker="memory://", set_as_current=False)
    app.conf.update(task_default_rate_limit="1/s", task_time_limit=9, task_soft_time_limit=8)
    app.task(seven, shared=False, name="limits.sms")

    with pytest.raises(UnsupportedTask, match=r"'limits\.sms' has rate_limit='1/s'"):
        celery_handlers([define(app)], own)


def test_time_limits_are_the_timeouts_of_the_handler(registry: Registry) -> None:
    limits = {
        name: (handler.timeout, handler.soft_timeout)
        for name in ("add", "slow", "hard")
        if (handler := registry.get(f"celery:project.{name}"))
    }

    assert limits == {"add": (None, None), "slow": (60, 0.3), "hard": (0.5, None)}


def test_options_without_a_meaning_here_do_no_harm(
    own: Celery, define: Callable[[Celery], str]
) -> None:
    app = Celery("options", broker="memory://", set_as_current=False)
    options = {"acks_late": True, "reject_on_worker_lost": True, "track_started": True}
    options |= {"ignore_result": True, "serializer": "pickle", "send_events": False, "trail": False}
    app.task(seven, shared=False, name="options.all", **options)

    handler = celery_handlers([define(app)], own).get("celery:options.all")

    assert handler
    assert handler(StepContext()) == 7


def test_the_request_is_that_of_the_attempt(call: Call) -> None:
    request = call("request", 1, context=StepContext(retries=2), a=2)

    assert (request.pop("id"), request.pop("hostname")) != ("", "")
    assert request == {
        "retries": 2, "args": [1], "kwargs": {"a": 2}, "called_directly": False, "is_eager": False
    }  # fmt: skip


def test_a_shared_task_runs_with_the_projects_app(call: Call) -> None:
    assert call("shared") == ["project", "project"]
    assert current_app.main == "own"


@pytest.mark.parametrize(
    ("written", "wrong"),
    [
        ({"left": 1}, "'left' is neither"),
        ({"args": "ab"}, "these are not"),
        ({"args": {"left": 1}}, "these are not"),
        ({"kwargs": [1]}, "these are not"),
    ],
    ids=repr,
)
def test_arguments_are_a_list_and_an_object(
    written: dict[str, Any], wrong: str, registry: Registry
) -> None:
    handler = registry.get("celery:project.add")
    assert handler

    with pytest.raises(FailStep, match=f"takes `args`, a list, and `kwargs`, an object; {wrong}"):
        handler(StepContext(args=written))


def _retry(call: Call, name: str, *args: Any, **kwargs: Any) -> RetryStep:
    with pytest.raises(RetryStep) as raised:
        call(name, *args, **kwargs)
    return raised.value


def test_a_retry_has_the_countdown_and_the_count_of_the_task(call: Call) -> None:
    again = _retry(call, "flaky")

    assert (again.after, again.attempts) == (timedelta(seconds=0.01), 4)
    assert "ConnectionError('refused')" in str(again)
    assert isinstance(again.__cause__, ConnectionError)
    assert call("flaky", context=StepContext(retries=2)) == {"retries": 2}


def test_after_max_retries_the_exception_of_the_task_is_raised(call: Call) -> None:
    with pytest.raises(ConnectionError, match="refused"):
        call("flaky", 9, context=StepContext(retries=3))
    with pytest.raises(tasks.default_delay.MaxRetriesExceededError):
        call("default_delay", context=StepContext(retries=3))


def test_a_call_may_name_its_own_max_retries(call: Call) -> None:
    assert _retry(call, "flaky", 9, max_retries=7, context=StepContext(retries=6)).attempts == 8
    with pytest.raises(ConnectionError):
        call("flaky", 9, max_retries=1, context=StepContext(retries=1))
    assert _retry(call, "flaky", 9).attempts == 4  # the next call is not affected


def test_without_max_retries_there_is_no_limit(call: Call) -> None:
    again = _retry(call, "endless", 5000, context=StepContext(retries=4000))

    assert again.after == timedelta(0)
    assert again.attempts > 4001


@pytest.mark.parametrize("naive", [True, False])
def test_an_eta_is_a_wait(naive: bool, call: Call) -> None:
    after = _retry(call, "eta", naive).after

    assert after
    assert MINUTE - timedelta(seconds=5) < after <= MINUTE


def test_the_policy_of_the_step_replaces_count_and_default_delay(call: Call) -> None:
    policy = StepContext(retries=4, max_retries=5)

    assert _retry(call, "default_delay").after == timedelta(seconds=120)
    assert _retry(call, "default_delay", context=policy).after is None
    assert _retry(call, "flaky", 9, context=policy).after == timedelta(seconds=0.01)
    with pytest.raises(ConnectionError):
        call("flaky", 9, context=StepContext(retries=1, max_retries=1))
    assert not hasattr(tasks.flaky, "override_max_retries")  # a step in another thread reads it


def test_autoretry_waits_with_its_backoff(call: Call) -> None:
    waits = [
        _retry(call, "automatic", "refused", context=StepContext(retries=retries)).after
        for retries in range(3)
    ]

    assert waits == [timedelta(seconds=seconds) for seconds in (2, 4, 8)]
    with pytest.raises(ConnectionError):
        call("automatic", "refused", context=StepContext(retries=4))


def test_a_class_may_have_its_own_way_to_retry(call: Call) -> None:
    assert _retry(call, "patient", False).after == timedelta(minutes=2)
    assert _retry(call, "patient", True).after == timedelta(0)


@pytest.mark.parametrize(("error", "type"), [("missing", FileNotFoundError), ("key", KeyError)])
def test_autoretry_is_for_its_exceptions_only(error: str, type: type, call: Call) -> None:
    with pytest.raises(type):
        call("automatic", error)


@pytest.mark.parametrize(
    ("how", "sentence"),
    [
        ("replace", r"calls self\.replace\(\), which a step cannot do: call the other task"),
        ("add_to_chord", r"calls self\.add_to_chord\(\), which a step cannot do"),
        ("throw", r"calls self\.retry\(throw=False\), which a step cannot do"),
        ("queue", r"calls self\.retry\(queue=…\), which a step cannot do"),
        ("args", r"calls self\.retry\(\) with other arguments"),
    ],
)
def test_what_a_step_cannot_do_fails_it_with_one_sentence(
    how: str, sentence: str, call: Call
) -> None:
    with pytest.raises(FailStep, match=rf"celery:project\.refused {sentence}"):
        call("refused", how)


def test_a_retry_with_the_same_arguments_is_one(call: Call) -> None:
    assert _retry(call, "refused", "same").after == timedelta(0)
    assert _retry(call, "refused", how="same").after == timedelta(0)


def test_autoretry_does_not_retry_a_refusal(call: Call) -> None:
    with pytest.raises(FailStep, match=r"project\.greedy calls self\.replace"):
        call("greedy")


@pytest.mark.parametrize(
    ("meta", "progress", "message"),
    [
        ({"current": 1, "total": 4}, 0.25, None),
        ({"done": 3, "total": 4, "status": "nearly"}, 0.75, "nearly"),
        ({"percent": 10, "message": "begun"}, 0.1, "begun"),
        ({"current": "one", "total": 4, "description": "x"}, None, "x"),
        ({"current": 1}, None, None),
        ("half", None, "half"),
        (None, None, None),
    ],
    ids=repr,
)
def test_a_state_is_progress(
    meta: Any, progress: float | None, message: str | None, call: Call
) -> None:
    context = StepContext()

    own = call("progress", "LOADING", meta, context=context)

    latest = context.recorder.latest
    assert (latest.progress, latest.stage, latest.message) == (progress, "LOADING", message)
    assert own == {"state": "LOADING", "info": meta}


def test_an_abortable_task_sees_that_it_should_stop(call: Call) -> None:
    assert call("abortable", context=StepContext(cancelled=lambda: True)) == "aborted"


@pytest.mark.parametrize(
    ("how", "sentence"),
    [
        ("ignore", "the task raised Ignore, so it has no result"),
        ("reject", "the task rejected its message: not mine"),
        ("FAILURE", "the task set its state to FAILURE: {'why': 'its own choice'}"),
        ("CUSTOM", "the task raised Ignore, so it has no result"),
    ],
)
def test_a_task_that_ends_without_a_result_fails_its_step(
    how: str, sentence: str, call: Call
) -> None:
    with pytest.raises(FailStep) as raised:
        call("ends", how)

    assert str(raised.value) == sentence


def test_a_task_may_store_its_success_itself(call: Call) -> None:
    assert call("ends", "SUCCESS") == {"why": "its own choice"}


def test_a_message_to_be_delivered_again_is_a_retry(call: Call) -> None:
    again = _retry(call, "ends", "requeue")

    assert (again.after, again.attempts) == (timedelta(minutes=3), 4)
    assert _retry(call, "ends", "requeue", context=StepContext(max_retries=9)).after is None


def test_the_handlers_of_the_class_are_called(call: Call) -> None:
    def calls(**context: int) -> list[str]:
        with suppress(RetryStep, ConnectionError):
            call("flaky", context=StepContext(**context))
        return list(tasks.Traced.calls)

    assert calls(retries=2) == ["before_start", "on_success", "after_return SUCCESS"]
    assert calls(retries=0) == ["before_start", "on_retry ConnectionError('refused')"]
    assert calls(retries=1, max_retries=1) == [
        "before_start", "on_failure ConnectionError('refused')", "after_return FAILURE"
    ]  # fmt: skip


def test_a_result_that_nobody_wants_need_not_be_json(call: Call) -> None:
    assert call("unkept") is None
    assert call("unkept", 5) == 5


def test_an_exception_that_a_task_throws_is_logged_only_if_it_is_unexpected(
    call: Call, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("WARNING")

    with pytest.raises(KeyError):
        call("throws")
    assert caplog.messages == []
    with pytest.raises(KeyError):
        call("automatic", "key")
    assert "raised unexpected: KeyError" in caplog.text


def test_tasks_that_a_task_calls_are_no_steps(call: Call) -> None:
    assert call("nested") == [3, 7, 0]
