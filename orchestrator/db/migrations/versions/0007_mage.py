"""Schedules limit how many of their runs go on at once, and let steps go on after a failure."""

import sqlalchemy as sa
from alembic import op

from orchestrator.db import schema

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    """Add the columns, and replace the functions `finish_step` and `grant_key`."""
    op.add_column("schedules", sa.Column("max_running", sa.SmallInteger()))
    op.add_column(
        "schedules",
        sa.Column(
            "continue_on_failure", sa.Boolean(), nullable=False, server_default=sa.text("false")
        ),
    )
    schema.replace_functions(op.get_bind())
