"""The end of a run."""

from uuid import UUID

from sqlalchemy.orm import Session

from orchestrator.db import journal, statements


def close_if_ended(session: Session, run_id: UUID) -> None:
    """End the run, under its lock, if it has no open step."""
    journal.write_events(session)
    statements.send_deferred(session)  # before the event of its end
    statements.execute(session, "SELECT close_run(:id)", id=run_id)
