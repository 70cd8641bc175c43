"""What became of a commit whose answer was lost: whether the work was done already."""

from sqlalchemy.orm import Session

from orchestrator import store
from orchestrator.execution import Claim

_CLAIMED = """
    SELECT 1 FROM steps WHERE id = :step_id AND state = 'running' AND attempt = :number
      AND generation = :generation AND worker = :worker
"""
# A lost attempt was ended by somebody else.
_RECORDED = """
    SELECT 1 FROM attempts WHERE step_id = :step_id AND number = :number AND outcome <> 'lost'
"""


def claimed(session: Session, claim: Claim, worker: str) -> bool:
    """Whether the worker has this claim."""
    fence = {"step_id": claim.step_id, "number": claim.attempt, "generation": claim.generation}
    return store.row(session, _CLAIMED, **fence, worker=worker) is not None


def recorded(session: Session, claim: Claim) -> bool:
    """Whether it is written down how this attempt ended."""
    asked = {"step_id": claim.step_id, "number": claim.attempt}
    return store.row(session, _RECORDED, **asked) is not None
