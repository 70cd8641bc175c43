"""Runs and tenants of the conformance suite."""

from uuid import UUID

from sqlalchemy import select
from sqlalchemy.orm import Session

from orchestrator import runs
from orchestrator.db.database import Database
from orchestrator.models import Run
from tests.support import reference_tenant
from tests.support.factories import a_tenant


def default_tenant(database: Database) -> UUID:
    """The tenant `default`, which is not that of the reference runs."""
    with database.transaction() as session:
        return a_tenant(session)


def reference_run(database: Database, name: str) -> Run:
    """One of the reference runs as it is now."""
    with Session(database.engine) as session:
        return runs.get(session, reference_tenant.TENANT, reference_tenant.NUMBERS[name])


def newest_run(database: Database) -> Run:
    """The run that was made last."""
    with database.transaction() as session:
        return session.scalars(select(Run).order_by(Run.id.desc()).limit(1)).one()
