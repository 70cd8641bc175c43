"""What depended on sessions: schedulers report that they run, and functions keep their plans."""

import sqlalchemy as sa
from alembic import op

from orchestrator.db import schema
from orchestrator.models.base import SHORT_LIVED

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Add the table, and create the functions `enqueue_deliveries` and `enqueue_firings`."""
    op.create_table(
        "schedulers",
        sa.Column("id", sa.Uuid, nullable=False),
        *(
            sa.Column(
                name, sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()
            )
            for name in ("started_at", "seen_at")
        ),
        sa.PrimaryKeyConstraint("id", name="pk_schedulers"),
        **SHORT_LIVED,
    )
    schema.replace_functions(op.get_bind())
