"""Runs are inserted by functions."""

from alembic import op

from orchestrator.db import schema

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Create the functions `submit_run` and `insert_runs`."""
    schema.replace_functions(op.get_bind())
