"""The audit log."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

from orchestrator.db import schema

revision = "0003"
down_revision = "0002"

_ACTORS = ("key", "token", "trigger", "sweep", "command", "process")
_OPTIONS = {
    "autovacuum_vacuum_scale_factor": 0.01,
    "autovacuum_vacuum_threshold": 1000,
    "autovacuum_analyze_scale_factor": 0.02,
    "autovacuum_vacuum_cost_delay": 0,
}


def upgrade() -> None:
    """Add the tables, and the trigger that keeps the entries as they are."""
    actors = sa.Enum(
        *_ACTORS, name="actorkind", native_enum=False, length=20, create_constraint=True
    )
    op.create_table(
        "audit",
        sa.Column("id", sa.Uuid, nullable=False),
        sa.Column("tenant_id", sa.Uuid, nullable=False),
        sa.Column("number", sa.BigInteger),
        sa.Column(
            "at",
            sa.DateTime(timezone=True),
            nullable=False,
            server_default=sa.func.clock_timestamp(),
        ),
        sa.Column("actor", actors, nullable=False),
        sa.Column("name", sa.Text),
        sa.Column("key_id", sa.Uuid),
        sa.Column("user", sa.Text),
        sa.Column("contract", sa.Text),
        sa.Column("request_id", sa.Text),
        sa.Column("verb", sa.Text, nullable=False),
        sa.Column("object_type", sa.Text, nullable=False),
        sa.Column("object_id", sa.Text, nullable=False),
        sa.Column("before", JSONB, nullable=False, server_default="{}"),
        sa.Column("after", JSONB, nullable=False, server_default="{}"),
        sa.Column("hash", sa.Text),
        sa.PrimaryKeyConstraint("id", name="pk_audit"),
        postgresql_with=_OPTIONS,
    )
    for column in ("id", "at"):
        op.create_index(f"ix_audit_tenant_id_{column}", "audit", ["tenant_id", column])
    op.create_index("ix_audit_tenant_id_number", "audit", ["tenant_id", "number"], unique=True)
    for column in ("verb", "object_id", "key_id"):
        op.create_index(f"ix_audit_tenant_id_{column}_id", "audit", ["tenant_id", column, "id"])
    op.create_index("ix_audit_unlinked", "audit", ["id"], postgresql_where=sa.text("hash IS NULL"))
    op.create_table(
        "audit_heads",
        sa.Column("tenant_id", sa.Uuid, nullable=False),
        sa.Column("number", sa.BigInteger, nullable=False),
        sa.Column("hash", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("tenant_id", name="pk_audit_heads"),
    )
    schema.replace_functions(op.get_bind())
