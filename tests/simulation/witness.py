"""Sees what workers are told and what they are believed, and says what must not be."""

from collections.abc import Callable
from typing import Any
from uuid import UUID

from orchestrator.db import Row
from orchestrator.engine.claims import Claim
from orchestrator.engine.outcomes import Failed, Outcome, Succeeded
from orchestrator.spec.model import RetryPolicy
from orchestrator.states import StepState
from tests.simulation.postgres import Postgres

Fence = tuple[int, int]  # attempt and generation


class Witness:
    """What happened outside of the database, to be compared with what is in it."""

    def __init__(self, postgres: Postgres) -> None:
        self._postgres = postgres
        self.believed: set[tuple[UUID, int]] = set()  # step and attempt whose success was recorded
        self.not_before: dict[UUID, float] = {}  # by run or step: when it may start
        self.poisonous: set[UUID] = set()  # steps that kill whoever executes them
        self._holder: dict[UUID, Fence] = {}

    def claimed(self, claim: Claim, generation: int) -> None:
        """A worker begins to execute an attempt, because of a message of some generation."""
        assert claim.generation == generation, f"a stale message for step {claim.key} is obeyed"
        for id in (claim.run_id, claim.step_id):
            assert self._postgres.now >= self.not_before.get(id, 0), (
                f"step {claim.key} starts before its time"
            )
        self._holder[claim.step_id] = (claim.attempt, claim.generation)

    def holds(self, claim: Claim) -> bool:
        """Whether nobody has claimed the step since."""
        return self._holder[claim.step_id] == (claim.attempt, claim.generation)

    def recording(self, claim: Claim, outcome: Outcome) -> Callable[[Row], None]:
        """A worker tells an outcome; what is called when it is believed."""

        def record(step: Row) -> None:
            assert self.holds(claim), (
                f"step {claim.key} believes attempt {claim.attempt}, which is not its last one"
            )
            assert step.attempt == claim.attempt, f"step {claim.key} has another attempt"
            if isinstance(outcome, Succeeded):
                success = (claim.step_id, claim.attempt)
                assert success not in self.believed, f"step {claim.key} is believed twice"
                assert step.state == StepState.SUCCEEDED, f"step {claim.key} is {step.state}"
                self.believed.add(success)
            if step.state == StepState.WAITING:
                assert isinstance(outcome, Failed), f"step {claim.key} waits for no reason"
                assert not outcome.final, f"step {claim.key} is tried again in vain"
                wait = outcome.after or RetryPolicy.from_row(claim.spec.get("retry")).delay
                self.not_before[claim.step_id] = self._postgres.now + wait.total_seconds()

        return record

    def forget(self, step_ids: list[Any]) -> None:
        """These steps are run again from the beginning."""
        for step_id in step_ids:
            self.not_before.pop(step_id, None)
