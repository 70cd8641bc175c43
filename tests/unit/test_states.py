"""The two state machines: their initial and terminal states, and their diagrams in the README."""

from enum import StrEnum
from pathlib import Path

import pytest

from orchestrator.states import (
    FINAL_RUNS,
    OPEN_STEPS,
    RunState,
    RunTransition,
    SkipCause,
    StepState,
    StepTransition,
    Transition,
    satisfies,
    terminal,
)

README = Path(__file__).parents[2] / "README.md"
MACHINES = [(RunTransition, RunState), (StepTransition, StepState)]

machines = pytest.mark.parametrize(("table", "states"), MACHINES, ids=["run", "step"])


def diagram(table: type[Transition]) -> str:
    """The table as a Mermaid state diagram, as the README has it."""
    lines = ["stateDiagram-v2"]
    for row in table:
        name = row.name.lower()
        lines += [f"    {source} --> {row.target}: {name}" for source in sorted(row.sources)]
    return "\n".join(lines)


def reached(table: type[Transition], start: StrEnum, *, reopening: bool = True) -> set[StrEnum]:
    states, before = {start}, set[StrEnum]()
    while states != before:
        before = set(states)
        rows = [row for row in table if reopening or not row.reopens]
        states |= {row.target for row in rows if row.sources & before}
    return states


def test_a_run_can_end_in_four_ways() -> None:
    ends = {RunState.SUCCEEDED, RunState.FAILED, RunState.TIMED_OUT, RunState.CANCELLED}

    assert terminal(RunTransition) == FINAL_RUNS == ends


def test_a_step_can_end_in_four_ways() -> None:
    ends = {StepState.SUCCEEDED, StepState.FAILED, StepState.SKIPPED, StepState.CANCELLED}

    assert terminal(StepTransition) == ends
    assert set(StepState) - ends == OPEN_STEPS


@machines
def test_every_state_is_reached_from_pending(
    table: type[Transition], states: type[RunState | StepState]
) -> None:
    assert reached(table, states.PENDING, reopening=False) == set(states)


@machines
def test_from_every_open_state_an_end_is_reached(
    table: type[Transition], states: type[RunState | StepState]
) -> None:
    for state in set(states) - terminal(table):
        assert reached(table, state, reopening=False) & terminal(table), state


@machines
def test_only_a_retry_leaves_a_terminal_state(
    table: type[Transition], states: type[RunState | StepState]
) -> None:
    ends = terminal(table)
    (reopening,) = [row for row in table if row.reopens]

    assert all(row.sources.isdisjoint(ends) for row in table if row is not reopening)
    assert reopening.sources == ends
    assert reopening.target == states.PENDING


@machines
def test_no_transition_leads_where_it_starts(
    table: type[Transition], states: type[RunState | StepState]
) -> None:
    assert all(row.target not in row.sources for row in table)
    assert {row.target for row in table} | {states.PENDING} == set(states)


def test_a_transition_knows_whether_it_ends() -> None:
    enders = {row.name for row in StepTransition if row.ends}

    assert enders == {"SUCCEED", "FAIL", "SKIP", "STOP", "OMIT", "CANCEL"}
    assert {row.name for row in RunTransition if not row.ends} == {
        "ADMIT", "START", "STOP", "REOPEN"
    }  # fmt: skip


@pytest.mark.parametrize(
    ("state", "cause", "allowed", "satisfied"),
    [
        (StepState.SUCCEEDED, None, False, True),
        (StepState.SUCCEEDED, None, True, True),
        (StepState.FAILED, None, False, False),
        (StepState.FAILED, None, True, True),
        (StepState.CANCELLED, None, False, False),
        (StepState.CANCELLED, None, True, False),
        (StepState.SKIPPED, SkipCause.CONDITION, False, True),
        (StepState.SKIPPED, SkipCause.DISABLED, False, True),
        (StepState.SKIPPED, SkipCause.UPSTREAM, False, False),
        (StepState.SKIPPED, SkipCause.UPSTREAM, True, False),
        *(
            (state, None, allowed, False)
            for state in sorted(OPEN_STEPS)
            for allowed in (True, False)
        ),
    ],
)
def test_a_step_lets_others_run_when_it_succeeded_was_skipped_or_may_fail(
    state: StepState, cause: SkipCause | None, allowed: bool, satisfied: bool
) -> None:
    assert satisfies(state, cause, allowed) is satisfied


def test_a_diagram_has_one_arrow_for_each_source_of_each_transition() -> None:
    first, *arrows = diagram(StepTransition).splitlines()

    assert first == "stateDiagram-v2"
    assert len(arrows) == sum(len(row.sources) for row in StepTransition)
    assert "    running --> queued: rescue" in arrows


@machines
def test_the_readme_draws_the_machine_as_it_is(
    table: type[Transition], states: type[RunState | StepState]
) -> None:
    assert diagram(table) in README.read_text(encoding="utf-8")
