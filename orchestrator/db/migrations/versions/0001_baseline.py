"""The schema of release 0.1.0."""

from pathlib import Path

from alembic import op

from orchestrator.db import schema

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.execute(Path(__file__).with_suffix(".sql").read_text())
    schema.replace_functions(op.get_bind())
