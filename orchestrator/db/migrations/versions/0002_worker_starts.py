"""The handlers that a worker has, and the starts of workers that did not succeed."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import ARRAY

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Add the column and the table."""
    op.add_column(
        "workers", sa.Column("handlers", ARRAY(sa.Text), nullable=False, server_default="{}")
    )
    op.create_table(
        "worker_starts",
        sa.Column("worker", sa.Text, nullable=False),
        sa.Column("queues", ARRAY(sa.Text), nullable=False),
        sa.Column("error", sa.Text),
        sa.Column(
            "started_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()
        ),
        sa.PrimaryKeyConstraint("worker", "queues", name="pk_worker_starts"),
    )
