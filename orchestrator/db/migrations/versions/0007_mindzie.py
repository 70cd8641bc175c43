"""Runs that are not due are counted by tenant, and the progress of a run does not fall."""

from alembic import op
from sqlalchemy import text

from orchestrator.db import schema

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    """Add the index, and replace the functions."""
    op.create_index(
        "ix_runs_not_due_of_tenant",
        "runs",
        ["tenant_id", "priority"],
        postgresql_where=text("state = 'pending' AND NOT due"),
    )
    schema.replace_functions(op.get_bind())
