"""Steps are claimed and finished by functions of the database."""

import sqlalchemy as sa
from alembic import op

from orchestrator.db import schema

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    """Add the thread of an attempt, and the functions."""
    op.add_column("attempts", sa.Column("thread", sa.Integer()))
    schema.replace_functions(op.get_bind())
