"""How an attempt ends, and what that makes of its step."""

from datetime import timedelta
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import pytest

from orchestrator.engine.outcomes import (
    MAX_ATTEMPTS,
    MAX_LOSSES,
    Change,
    Failed,
    Interrupted,
    Outcome,
    Skipped,
    Succeeded,
    change_for,
    check_result,
    result_excess_of,
    timed_out_failure,
)
from orchestrator.json_values import find_unstorable
from orchestrator.models import AttemptOutcome
from orchestrator.states import RunState, StepTransition

THRICE = {"attempts": 3, "delay": 2, "backoff": 3.0, "max_delay": 600, "jitter": 0.0, "on": []}
ERROR = Failed("ValueError: broken", ("ValueError", "builtins.ValueError", "Exception"))


def change(
    outcome: Outcome,
    *,
    run_state: RunState = RunState.RUNNING,
    run_error: Any = None,
    retry: dict[str, Any] | None = None,
    **row: Any,
) -> Change:
    """What the outcome makes of a step in its first attempt, unless its row says otherwise."""
    spec = {"timeout": 6.0, **({"retry": retry} if retry else {})}
    most = retry["attempts"] if retry else 1
    before = {
        "attempt": 1,
        "forgiven": 0,
        "losses": 0,
        "max_attempts": most,
        "overdue": False,
        "goes_on": False,
    }
    run: Any = SimpleNamespace(state=run_state, error=run_error)
    step: Any = SimpleNamespace(spec=spec, **before | row)
    return change_for(run, step, outcome)


def test_a_success_keeps_its_result() -> None:
    made = change(check_result(Succeeded({"n": 1})))

    assert (made.transition, made.outcome) == (StepTransition.SUCCEED, AttemptOutcome.SUCCEEDED)
    assert made.result == '{"n": 1}'
    assert made.error is None


def test_a_false_condition_skips_the_step() -> None:
    made = change(Skipped())

    assert (made.transition, made.outcome) == (StepTransition.SKIP, AttemptOutcome.SKIPPED)


def test_a_failure_without_a_policy_is_final() -> None:
    made = change(ERROR)

    assert (made.transition, made.outcome) == (StepTransition.FAIL, AttemptOutcome.FAILED)
    assert made.error == {"message": "ValueError: broken", "kind": "ValueError"}


@pytest.mark.parametrize(("attempt", "seconds"), [(1, 2), (2, 6)])
def test_a_failure_is_tried_again_after_the_policys_wait(attempt: int, seconds: int) -> None:
    made = change(ERROR, retry=THRICE, attempt=attempt)

    assert (made.transition, made.outcome) == (StepTransition.POSTPONE, AttemptOutcome.FAILED)
    assert made.more == {"after": seconds}
    assert made.error == {"message": "ValueError: broken", "kind": "ValueError"}


def test_a_handler_may_say_itself_when_to_try_again() -> None:
    later = Failed("not yet", ("RetryStep",), after=timedelta(minutes=5))

    assert change(later, retry=THRICE).more == {"after": 300}
    assert change(later).transition == StepTransition.FAIL


def test_a_handler_may_say_how_many_attempts_a_step_without_a_policy_has() -> None:
    later = Failed("not yet", ("RetryStep",), after=timedelta(seconds=7), attempts=2)

    assert change(later).more == {"after": 7, "max_attempts": 2}
    assert change(later, attempt=3, losses=1, forgiven=1).transition == StepTransition.POSTPONE
    assert change(later, attempt=2).transition == StepTransition.FAIL
    assert change(ERROR, max_attempts=2).transition == StepTransition.FAIL
    assert change(later, retry=THRICE, attempt=2).more == {"after": 7}
    assert change(later, retry=THRICE, attempt=3).transition == StepTransition.FAIL


def test_attempts_without_a_limit_never_end() -> None:
    later = Failed("not yet", ("RetryStep",), attempts=2**31)

    made = change(later, attempt=100_000)

    assert made.transition == StepTransition.POSTPONE
    assert made.more["max_attempts"] == MAX_ATTEMPTS


@pytest.mark.parametrize(
    ("outcome", "row"),
    [
        (ERROR, {"retry": THRICE, "attempt": 3}),
        (Failed("never", ("FailStep",), final=True), {"retry": THRICE}),
        (ERROR, {"retry": THRICE | {"on": ["OSError"]}}),
        (ERROR, {"retry": THRICE, "run_state": RunState.CANCELLING}),
        (ERROR, {"retry": THRICE, "run_error": {"message": "another step failed"}}),
    ],
    ids=["attempts used up", "final", "not covered", "run is cancelled", "run has failed"],
)
def test_a_failure_is_final_when_another_attempt_is_of_no_use(
    outcome: Failed, row: dict[str, Any]
) -> None:
    assert change(outcome, **row).transition == StepTransition.FAIL


def test_only_failures_count_as_attempts_of_the_policy() -> None:
    after_losses = change(ERROR, retry=THRICE, attempt=4, losses=1, forgiven=2)

    assert after_losses.transition == StepTransition.POSTPONE
    assert after_losses.more == {"after": 2}


@pytest.mark.parametrize("losses", range(MAX_LOSSES - 1))
def test_a_step_that_lost_its_worker_is_queued_again(losses: int) -> None:
    made = change(Interrupted("worker w1 went silent"), attempt=losses + 1, losses=losses)

    assert (made.transition, made.outcome) == (StepTransition.RESCUE, AttemptOutcome.LOST)


def test_a_step_that_takes_its_workers_down_is_quarantined() -> None:
    made = change(Interrupted("worker w1 went silent"), losses=MAX_LOSSES - 1, retry=THRICE)

    assert (made.transition, made.outcome) == (StepTransition.FAIL, AttemptOutcome.LOST)
    assert made.error == {
        "message": "quarantined: it lost 3 workers, the last time because worker w1 went silent",
        "kind": "Quarantined",
    }


def test_an_interrupted_step_of_a_cancelled_run_is_cancelled() -> None:
    made = change(Interrupted("told to stop"), run_state=RunState.CANCELLING, overdue=True)

    assert (made.transition, made.outcome) == (StepTransition.STOP, AttemptOutcome.CANCELLED)


def test_an_interrupted_step_whose_time_is_over_has_timed_out() -> None:
    final = change(Interrupted("killed"), overdue=True)
    again = change(Interrupted("killed"), overdue=True, retry=THRICE | {"on": ["Timeout"]})

    assert final.transition == StepTransition.FAIL
    assert final.error == {
        "message": "the step ran longer than its timeout of 6 s",
        "kind": "Timeout",
    }
    assert again.transition == StepTransition.POSTPONE


def test_a_result_that_cannot_be_kept_is_a_final_failure() -> None:
    failed = check_result(Succeeded({"rate": float("nan")}))

    assert failed == Failed(
        "the result is not JSON at /rate: NaN and infinity are not JSON",
        ("InvalidResult",),
        final=True,
    )


def test_a_result_of_more_than_64_mib_is_a_final_failure() -> None:
    failed = check_result(Succeeded("x" * (64 * 1024 * 1024)))

    assert failed == Failed(
        "the result has 67,108,866 bytes as JSON; at most 67,108,864 are kept",
        ("InvalidResult",),
        final=True,
    )


def test_a_result_too_large_for_a_row_must_go_elsewhere() -> None:
    large = check_result(Succeeded("x" * 300_000))

    assert (
        result_excess_of(large) == "the result has 300,002 bytes as JSON; at most 262,144 are kept"
    )
    assert result_excess_of(check_result(Succeeded("small"))) is None
    assert result_excess_of(Succeeded(artifact=UUID(int=7))) is None
    assert change(Succeeded(artifact=UUID(int=7))).more == {"artifact": str(UUID(int=7))}


@pytest.mark.parametrize(
    "outcome",
    [
        Succeeded({"n": 1}),
        ERROR,
        Skipped(),
        Interrupted("gone"),
        timed_out_failure(0.5),
    ],
    ids=lambda outcome: type(outcome).__name__,
)
def test_any_other_outcome_is_kept_as_it_is(outcome: Outcome) -> None:
    assert check_result(outcome) == outcome


@pytest.mark.parametrize("text", ["a\x00b", "half \ud800"], ids=["NUL", "surrogate"])
@pytest.mark.parametrize("field", ["message", "traceback"])
def test_whatever_an_exception_says_can_be_stored(text: str, field: str) -> None:
    error = {"message": "ValueError", field: text}

    outcome = check_result(
        Failed(error["message"], ("ValueError",), traceback=error.get("traceback"))
    )

    assert find_unstorable(change(outcome).error) is None
