"""In how many runs a step failed, by an index."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    op.create_index(
        "ix_steps_ended_badly",
        "steps",
        ["tenant_id", "run_id"],
        postgresql_include=["state"],
        postgresql_where=sa.text("state IN ('failed', 'cancelled') AND started_at IS NOT NULL"),
    )
