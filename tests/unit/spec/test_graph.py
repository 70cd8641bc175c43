"""Retry policies, the graph of a workflow's steps, and the plan that a run copies."""

from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.spec.graph import SEGMENT_LENGTH, chain_after, dependents, downstream, plan
from orchestrator.spec.model import (
    DEFAULT_QUEUE,
    NORMAL_PRIORITY,
    RetryPolicy,
    StepSpec,
    WorkflowSpec,
)

SECOND = timedelta(seconds=1)


def step(key: str, *needs: str, **options: Any) -> StepSpec:
    return StepSpec(key=key, uses="noop", needs=needs, **options)


def chain(length: int) -> list[StepSpec]:
    return [step(f"s{at}", *([f"s{at - 1}"] if at else [])) for at in range(length)]


DIAMOND = [step("top"), step("left", "top"), step("right", "top"), step("end", "left", "right")]


def graph(rows: list[tuple[int, bool]]) -> list[StepSpec]:
    """Steps that need those of the steps before them whose bits are set."""
    return [
        step(f"s{at}", *(f"s{below}" for below in range(at) if needs >> below & 1), enabled=enabled)
        for at, (needs, enabled) in enumerate(rows)
    ]


rows = st.tuples(st.sampled_from([0, 1, 2, 3, 4, 5, 8, 16, 24, 32, 64, 96]), st.booleans())
graphs = st.lists(rows, min_size=1, max_size=8).map(graph)


def test_each_wait_is_longer_than_the_last_by_the_backoff() -> None:
    policy = RetryPolicy(delay=SECOND, backoff=3, max_delay=timedelta(hours=1))

    waits = [policy.wait(failures) for failures in (1, 2, 3, 4)]

    assert waits == [SECOND, 3 * SECOND, 9 * SECOND, 27 * SECOND]


def test_no_wait_is_longer_than_the_longest_delay() -> None:
    policy = RetryPolicy(delay=SECOND, backoff=10, max_delay=timedelta(seconds=50))

    assert [policy.wait(failures) for failures in (1, 2, 3, 1000)] == [
        SECOND, 10 * SECOND, 50 * SECOND, 50 * SECOND
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("backoff", "failures"), [(2.0, 1_000), (2.0, 10**9), (100.0, 10**9), (100, 1_000)]
)
def test_no_number_of_failures_overflows(backoff: float, failures: int) -> None:
    policy = RetryPolicy(
        delay=timedelta(days=3650), backoff=backoff, max_delay=timedelta(days=3650)
    )

    assert policy.wait(failures) == policy.max_delay


def test_a_slow_backoff_reaches_the_longest_delay_too() -> None:
    policy = RetryPolicy(attempts=1000, delay=SECOND, backoff=1.05, max_delay=timedelta(minutes=10))

    assert policy.wait(200) == timedelta(minutes=10)


def test_without_a_delay_nothing_is_waited_for() -> None:
    assert RetryPolicy(delay=timedelta(0), backoff=100.0).wait(10**6) == timedelta(0)


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 100), st.floats(0, 1), st.none() | st.floats(0, 1))
def test_jitter_shortens_a_wait_by_at_most_its_fraction(
    failures: int, jitter: float, chance: float | None
) -> None:
    whole = RetryPolicy(jitter=0).wait(failures)

    wait = RetryPolicy(jitter=jitter).wait(failures, chance)

    assert whole * (1 - jitter) - timedelta(microseconds=1) <= wait <= whole


def test_jitter_shortens_a_wait_in_proportion_to_chance() -> None:
    policy = RetryPolicy(delay=10 * SECOND, jitter=0.5)

    waits = [policy.wait(1, chance) for chance in (0, 0.5, 1)]

    assert waits == [10 * SECOND, 7.5 * SECOND, 5 * SECOND]


@pytest.mark.parametrize(
    ("on", "covered"),
    [
        ((), True),
        (("OSError",), True),
        (("TimeoutError", "builtins.OSError"), True),
        (("ValueError",), False),
        (("oserror",), False),
    ],
)
def test_a_policy_covers_the_classes_it_names_or_all(on: tuple[str, ...], covered: bool) -> None:
    kinds = ("ConnectionError", "builtins.ConnectionError", "OSError", "builtins.OSError")

    assert RetryPolicy(on=on).covers(kinds) is covered


def test_an_error_without_a_class_is_covered_only_by_a_policy_that_names_none() -> None:
    assert RetryPolicy().covers(())
    assert not RetryPolicy(on=("OSError",)).covers(())


def test_the_steps_that_need_a_step_are_known() -> None:
    assert dependents(DIAMOND) == {
        "top": ["left", "right"], "left": ["end"], "right": ["end"], "end": []
    }  # fmt: skip


def test_downstream_of_a_step_are_it_and_all_that_need_it() -> None:
    needed_by = dependents([*DIAMOND, step("alone")])

    assert downstream("top", needed_by) == {"top", "left", "right", "end"}
    assert downstream("left", needed_by) == {"left", "end"}
    assert downstream("alone", needed_by) == {"alone"}


def test_the_followers_of_a_step_fill_one_segment() -> None:
    lines = chain_after(chain(6))

    assert SEGMENT_LENGTH == 4
    assert lines == {
        "s0": ["s1", "s2", "s3"],
        "s1": ["s2", "s3", "s4"],
        "s2": ["s3", "s4", "s5"],
        "s3": ["s4", "s5"],
        "s4": ["s5"],
        "s5": [],
    }


def test_a_line_ends_before_a_fan_out_and_before_a_join() -> None:
    lines = chain_after([*DIAMOND, step("after", "end")])

    assert lines == {"top": [], "left": [], "right": [], "end": ["after"], "after": []}


def test_a_line_ends_before_a_disabled_step() -> None:
    lines = chain_after([step("a"), step("b", "a"), step("c", "b", enabled=False), step("d", "c")])

    assert lines["a"] == ["b"]
    assert lines["b"] == []


@settings(max_examples=60, deadline=None)
@given(graphs)
def test_a_follower_waits_for_nothing_but_the_step_before_it(steps: list[StepSpec]) -> None:
    by_key, needed_by = {each.key: each for each in steps}, dependents(steps)

    for first, line in chain_after(steps).items():
        assert len(line) < SEGMENT_LENGTH
        for before, key in zip([first, *line], line, strict=False):
            assert by_key[key].needs == (before,)
            assert needed_by[before] == [key]
            assert by_key[key].enabled


def test_the_plan_has_a_row_for_each_step_in_order() -> None:
    rows = plan(WorkflowSpec(name="w", steps=tuple(DIAMOND)))

    assert [(row["position"], row["key"]) for row in rows] == [
        (1, "top"), (2, "left"), (3, "right"), (4, "end")
    ]  # fmt: skip
    assert [row["needs"] for row in rows] == [[], ["top"], ["top"], ["left", "right"]]
    assert [row["dependents"] for row in rows] == [["left", "right"], ["end"], ["end"], []]


def test_a_step_without_options_has_a_row_of_defaults() -> None:
    (row,) = plan(WorkflowSpec(name="w", steps=(step("a"),)))

    assert row == {
        "position": 1,
        "key": "a",
        "name": "a",
        "uses": "noop",
        "needs": [],
        "dependents": [],
        "followers": [],
        "queue": None,
        "priority": None,
        "max_attempts": 1,
        "allow_failure": False,
        "enabled": True,
        "spec": {"with": {}, "reads": []},
    }


def test_every_option_of_a_step_is_in_its_row() -> None:
    policy = RetryPolicy(
        attempts=5,
        delay=timedelta(milliseconds=500),
        backoff=1.5,
        max_delay=timedelta(minutes=2),
        jitter=0.25,
        on=("OSError",),
    )
    full = step(
        "a",
        name="First",
        args={"n": 1},
        reads=("b",),
        when="params.on",
        retry=policy,
        timeout=timedelta(seconds=90),
        queue="slow",
        priority=8,
        allow_failure=True,
        enabled=False,
    )

    (row,) = plan(WorkflowSpec(name="w", steps=(full,)))

    assert (row["name"], row["queue"], row["priority"]) == ("First", "slow", 8)
    assert (row["max_attempts"], row["allow_failure"], row["enabled"]) == (5, True, False)
    assert row["spec"] == {
        "with": {"n": 1},
        "reads": ["b"],
        "when": "params.on",
        "timeout": 90.0,
        "retry": {
            "attempts": 5,
            "delay": 0.5,
            "backoff": 1.5,
            "max_delay": 120.0,
            "jitter": 0.25,
            "on": ["OSError"],
        },
    }
    assert RetryPolicy.from_row(row["spec"]["retry"]) == policy


def test_a_step_without_a_policy_is_tried_once() -> None:
    assert RetryPolicy.from_row(None).attempts == 1


def test_a_workflow_has_the_documented_defaults() -> None:
    spec = WorkflowSpec(name="w", steps=(step("a"),))

    assert (spec.queue, spec.priority, spec.timeout) == (DEFAULT_QUEUE, NORMAL_PRIORITY, None) == (
        "default", 4, None
    )  # fmt: skip
