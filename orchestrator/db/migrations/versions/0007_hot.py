"""The functions of a step make fewer statements and plans."""

from alembic import op

from orchestrator.db import schema

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    """Replace the functions."""
    schema.replace_functions(op.get_bind())
