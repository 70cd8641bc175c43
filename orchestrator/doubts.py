"""What became of a commit whose answer was lost: whether the work was done already."""

from sqlalchemy.orm import Session

from orchestrator import store
from orchestrator.execution import Claim

# By the moment of the claim: after a try that came to nothing, a copy of the message may have
# claimed an attempt with the same number, even in the same worker.
_CLAIMED = """
    SELECT 1 FROM steps WHERE id = :step_id AND state = 'running' AND attempt = :number
      AND started_at = :started_at
"""
# Whoever else ends an attempt does not know what it took.
_RECORDED = """
    SELECT 1 FROM attempts WHERE step_id = :step_id AND number = :number
      AND started_at = :started_at AND usage IS NOT NULL
"""


def claimed(session: Session, claim: Claim) -> bool:
    """Whether this claim was made, and still is good."""
    return _is_there(session, _CLAIMED, claim)


def recorded(session: Session, claim: Claim) -> bool:
    """Whether it is written down how this attempt ended, by whoever executed it."""
    return _is_there(session, _RECORDED, claim)


def _is_there(session: Session, sql: str, claim: Claim) -> bool:
    store.lock_run(session, claim.run_id)  # the commit in doubt may be on its way still
    fence = {"step_id": claim.step_id, "number": claim.attempt, "started_at": claim.started_at}
    return store.row(session, sql, **fence) is not None
