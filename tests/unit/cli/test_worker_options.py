"""What `orchestrator worker` refuses before it starts, and how it reads the names of queues."""

from typing import Any

import click
import pytest

from orchestrator.cli.main import worker


def _options(*words: str) -> dict[str, Any]:
    return worker.make_context("worker", list(words)).params


@pytest.mark.parametrize(
    ("text", "queues"),
    [
        ("default", "default"),
        ("a,b", "a,b"),
        ("a, b", "a,b"),
        (" a ,\tb\n", "a,b"),
        ("a,,b,", "a,b"),
        ("b,a,b", "b,a"),
        ("etl.daily_2-x", "etl.daily_2-x"),
    ],
)
def test_the_names_of_queues_are_trimmed(text: str, queues: str) -> None:
    assert _options("--queues", text)["queues"] == queues


@pytest.mark.parametrize("text", ["", " ", ",", ",,", " , "])
def test_a_worker_without_a_queue_is_refused(text: str) -> None:
    with pytest.raises(click.BadParameter, match="it must name a queue, or several, like a,b"):
        _options("--queues", text)


@pytest.mark.parametrize("text", ["a b", "a,b c", "a;b", "-a", "a/b", "a" * 33, "é", "*", "a\nb"])
def test_a_name_that_no_step_can_have_is_refused(text: str) -> None:
    with pytest.raises(click.BadParameter, match="is no name of a queue"):
        _options("--queues", text)


@pytest.mark.parametrize(
    ("option", "value"),
    [("--concurrency", "0"), ("--concurrency", "-1"), ("--name", ""), ("--name", "a b"),
     ("--name", "a@b"), ("--name", "%h"), ("--name", "a/b")],
)  # fmt: skip
def test_other_options_that_celery_would_misread_are_refused(option: str, value: str) -> None:
    with pytest.raises(click.BadParameter):
        _options(option, value)
