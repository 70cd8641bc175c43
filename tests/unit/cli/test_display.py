"""The progress of a run in a terminal and in a pipe."""

import io
from typing import Any

import pytest
from rich.console import Console

from orchestrator.cli import display


def a_run(percent: int, stage: str | None, state: str = "running", step: str = "running") -> Any:
    return {
        "workflow": "w", "version": 1, "number": 7, "state": state, "duration_seconds": 1.5,
        "progress": {"percent": percent, "stage": stage},
        "steps": [{
            "key": "SEND", "state": step, "attempt": 1, "duration_seconds": 1.0, "error": None,
            "result": None, "percent": percent, "stage": stage,
        }],
    }  # fmt: skip


STATES = [
    a_run(0, None, "queued", "queued"),
    a_run(10, "reading"),
    a_run(10, "reading"),
    a_run(40, "writing"),
    a_run(100, None, "succeeded", "succeeded"),
]


def test_a_pipe_gets_a_line_for_each_change_of_the_progress() -> None:
    console = Console(file=io.StringIO(), width=100)

    last = display.watch(iter(STATES), console)

    assert last["state"] == "succeeded"
    assert console.file.getvalue().splitlines() == [  # type: ignore[attr-defined]
        " 10 %  reading",
        " 40 %  writing",
        "SEND succeeded 1.00 s",
        "w v1  run 7  succeeded  1.50 s",
    ]


@pytest.mark.parametrize(
    "states", [STATES, [{**STATES[1], "progress": None}]], ids=["all", "old API"]
)
def test_a_terminal_shows_percent_and_stage(states: list[Any]) -> None:
    console = Console(file=io.StringIO(), width=100, force_terminal=True, color_system=None)

    display.watch(iter(states), console)

    output = console.file.getvalue()  # type: ignore[attr-defined]
    assert f"{states[-1]['steps'][0]['percent'] if states is STATES else 0} %" in output


def test_the_id_of_a_run_can_be_copied_from_a_narrow_list() -> None:
    console = Console(file=io.StringIO(), width=60)
    run = a_run(100, None, "succeeded") | {
        "id": "01a2035c-5cc0-7751-826d-e5d3a730a09c", "priority": 4,
        "created_at": "2026-11-22T13:05:14.123456Z",
    }  # fmt: skip

    display.table([run], console)

    assert run["id"] in console.file.getvalue()  # type: ignore[attr-defined]
