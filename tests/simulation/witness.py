"""Compares claims and recorded outcomes with what is allowed."""

from collections.abc import Callable
from typing import Any
from uuid import UUID

from orchestrator.engine.attempts import Recorded
from orchestrator.engine.claims import Claim
from orchestrator.engine.outcomes import Failed, Outcome, Succeeded
from orchestrator.spec.model import RetryPolicy
from orchestrator.states import StepState
from tests.simulation.postgres import Postgres

Fence = tuple[int, int]  # attempt and generation


class Witness:
    """A record of claims and outcomes outside of the database. Methods raise AssertionError."""

    def __init__(self, postgres: Postgres) -> None:
        self._postgres = postgres
        self.recorded: set[tuple[UUID, int]] = set()  # step and attempt of recorded successes
        self.not_before: dict[UUID, float] = {}  # by run or step: its earliest start
        self.poisonous: set[UUID] = set()  # steps that kill their child
        self._holder: dict[UUID, Fence] = {}

    def claimed(self, claim: Claim, generation: int) -> None:
        """A worker has claimed an attempt by a message of this generation."""
        assert claim.generation == generation, f"a stale message for step {claim.key} is executed"
        for id in (claim.run_id, claim.step_id):
            assert self._postgres.now >= self.not_before.get(id, 0), (
                f"step {claim.key} starts before its time"
            )
        self._holder[claim.step_id] = (claim.attempt, claim.generation)

    def is_holder(self, claim: Claim) -> bool:
        """Whether this is the last claim of the step."""
        return self._holder[claim.step_id] == (claim.attempt, claim.generation)

    def recording(self, claim: Claim, outcome: Outcome) -> Callable[[Recorded], None]:
        """A worker reports an outcome; returns a function to call when it is recorded."""

        def record(step: Recorded) -> None:
            assert self.is_holder(claim), (
                f"step {claim.key} records attempt {claim.attempt}, which is not its last one"
            )
            if isinstance(outcome, Succeeded):
                success = (claim.step_id, claim.attempt)
                assert success not in self.recorded, f"step {claim.key} is recorded twice"
                assert step.state == StepState.SUCCEEDED, f"step {claim.key} is {step.state}"
                self.recorded.add(success)
            if step.state == StepState.WAITING:
                assert isinstance(outcome, Failed), f"step {claim.key} waits for no reason"
                assert not outcome.final, f"step {claim.key} is tried again in vain"
                wait = outcome.after or RetryPolicy.from_row(claim.spec.get("retry")).delay
                self.not_before[claim.step_id] = self._postgres.now + wait.total_seconds()

        return record

    def reset(self, step_ids: list[Any]) -> None:
        """Forget the start times of these runs and steps: they are run again."""
        for step_id in step_ids:
            self.not_before.pop(step_id, None)
