"""Around a run: what starts it, what it says and leaves, who is told; and the second wall."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0002"
down_revision = "0001"

ROLE = "orchestrator_api"  # what the API's connections act as; the policies bind it

# Exact positions in a backlog of any length: counts by spans of 1024 numbers, and of 1024 spans,
# kept by appending.
BACKLOG = """
CREATE FUNCTION note_backlog() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF TG_OP <> 'INSERT' AND OLD.state = 'pending' AND OLD.due THEN
    INSERT INTO backlog_changes (tenant_id, queue, priority, bucket, change)
    VALUES (OLD.tenant_id, OLD.queue, OLD.priority, OLD.number >> 10, -1);
  END IF;
  IF TG_OP <> 'DELETE' AND NEW.state = 'pending' AND NEW.due THEN
    INSERT INTO backlog_changes (tenant_id, queue, priority, bucket, change)
    VALUES (NEW.tenant_id, NEW.queue, NEW.priority, NEW.number >> 10, 1);
  END IF;
  RETURN NULL;
END $$;
CREATE TRIGGER backlog_insert AFTER INSERT ON runs FOR EACH ROW
  WHEN (NEW.state = 'pending' AND NEW.due) EXECUTE FUNCTION note_backlog();
CREATE TRIGGER backlog_delete AFTER DELETE ON runs FOR EACH ROW
  WHEN (OLD.state = 'pending' AND OLD.due) EXECUTE FUNCTION note_backlog();
CREATE TRIGGER backlog_update AFTER UPDATE OF state, due, priority, queue ON runs FOR EACH ROW
  WHEN (OLD.state = 'pending' AND OLD.due OR NEW.state = 'pending' AND NEW.due)
  EXECUTE FUNCTION note_backlog();
INSERT INTO backlog (tenant_id, level, queue, priority, bucket, runs)
  SELECT tenant_id, level, queue, priority, number >> (10 * level), count(*)
  FROM runs, generate_series(1, 2) AS level
  WHERE state = 'pending' AND due GROUP BY 1, 2, 3, 4, 5;
"""

# What a new run has to know about other tenants' work: a yes or a no, and nothing else.
MAY_START = """
CREATE FUNCTION may_start(run_id uuid, run_queue text, run_priority int, most int)
RETURNS boolean LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path FROM CURRENT AS $$
BEGIN
  -- Tenant by tenant, as the index has them: its cost does not grow with a backlog.
  IF EXISTS (SELECT FROM tenants, LATERAL (
      SELECT FROM runs WHERE tenant_id = tenants.id AND queue = run_queue AND state = 'pending'
        AND due AND priority >= run_priority AND id <> run_id LIMIT 1) ahead) THEN
    RETURN false;
  END IF;
  RETURN most > (SELECT count(*) FROM (
    SELECT FROM steps WHERE queue = run_queue AND state = 'queued' AND published_at IS NOT NULL
    LIMIT most) unclaimed);
END $$;
REVOKE EXECUTE ON FUNCTION may_start FROM PUBLIC;
DO $$ BEGIN
  EXECUTE format('ALTER FUNCTION may_start SET search_path = %I, pg_temp', current_schema());
END $$;
"""

# Row-level security: a connection of the API sees the rows of the tenant it says it acts for, and
# none before it has said so. Workers, schedulers and migrations own the tables and see all.
TENANT = "(SELECT CAST(nullif(current_setting('orchestrator.tenant', true), '') AS uuid))"
OWNED = (
    "projects",
    "keys",
    "workflows",
    "queue_uses",
    "runs",
    "steps",
    "events",
    "idempotency_keys",
    "schedules",
    "firings",
    "backfills",
    "outputs",
    "logs",
    "artifacts",
    "webhooks",
    "deliveries",
    "delivery_attempts",
    "backlog",
    "backlog_changes",
    "throughput",
    "estimates",
)
WALLS = {
    **dict.fromkeys(OWNED, f"tenant_id = {TENANT}"),
    "tenants": f"id = {TENANT}",
    "versions": "EXISTS (SELECT FROM workflows WHERE workflows.id = workflow_id)",
    "attempts": "EXISTS (SELECT FROM runs WHERE runs.id = run_id)",
}
OPEN = ("queues", "workers")


def upgrade() -> None:
    op.create_table(
        "artifacts",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("number", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("tenant_id", sa.Uuid(), nullable=False),
        sa.Column("run_id", sa.Uuid(), nullable=False),
        sa.Column("step_id", sa.Uuid(), nullable=False),
        sa.Column("step", sa.Text(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column(
            "kind",
            sa.Enum(
                "report",
                "data",
                "model",
                "visualization",
                "result",
                name="artifactkind",
                native_enum=False,
                create_constraint=True,
                length=20,
            ),
            nullable=False,
        ),
        sa.Column("title", sa.Text(), nullable=False),
        sa.Column("primary", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("media_type", sa.Text(), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("sha256", sa.Text(), nullable=False),
        sa.Column("records", sa.BigInteger(), nullable=True),
        sa.Column(
            "extra",
            postgresql.JSONB(none_as_null=True, astext_type=sa.Text()),
            server_default=sa.text("'{}'"),
            nullable=False,
        ),
        sa.Column("address", sa.Text(), nullable=False),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_artifacts")),
    )
    op.create_index(op.f("ix_artifacts_number"), "artifacts", ["number"], unique=True)
    op.create_index(
        op.f("ix_artifacts_run_id_number"), "artifacts", ["run_id", "number"], unique=False
    )
    op.create_index("ix_artifacts_saved", "artifacts", ["step_id", "attempt", "name"], unique=True)
    op.create_table(
        "backlog",
        sa.Column("tenant_id", sa.Uuid(), nullable=False),
        sa.Column("level", sa.SmallInteger(), autoincrement=False, nullable=False),
        sa.Column("queue", sa.Text(), nullable=False),
        sa.Column("priority", sa.SmallInteger(), autoincrement=False, nullable=False),
        sa.Column("bucket", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("runs", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint(
            "tenant_id", "level", "queue", "priority", "bucket", name=op.f("pk_backlog")
        ),
    )
    op.create_table(
        "backlog_changes",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("tenant_id", sa.Uuid(), nullable=False),
        sa.Column("queue", sa.Text(), nullable=False),
        sa.Column("priority", sa.SmallInteger(), nullable=False),
        sa.Column("bucket", sa.BigInteger(), nullable=False),
        sa.Column("change", sa.SmallInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_backlog_changes")),
    )
    op.create_index(
        op.f("ix_backlog_changes_tenant_id_queue"),
        "backlog_changes",
        ["tenant_id", "queue"],
        unique=False,
    )
    op.create_table(
        "estimates",
        sa.Column("workflow_id", sa.Uuid(), nullable=False),
        sa.Column("step", sa.Text(), nullable=False),
        sa.Column("tenant_id", sa.Uuid(), nullable=False),
        sa.Column("seconds", sa.Double(), nullable=False),
        sa.Column("samples", sa.Integer(), nullable=False),
        sa.Column(
            "updated_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.PrimaryKeyConstraint("workflow_id", "step", name=op.f("pk_estimates")),
    )
    op.create_table(
        "logs",
        sa.Column("run_id", sa.Uuid(), nullable=False),
        sa.Column("time_ns", sa.BigInteger(), nullable=False),
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("tenant_id", sa.Uuid(), nullable=False),
        sa.Column("step", sa.Text(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("level", sa.SmallInteger(), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("run_id", "time_ns", "id", name=op.f("pk_logs")),
    )
    op.create_table(
        "outputs",
        sa.Column("step_id", sa.Uuid(), nullable=False),
        sa.Column("attempt", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("tenant_id", sa.Uuid(), nullable=False),
        sa.Column("run_id", sa.Uuid(), nullable=False),
        sa.Column("progress", sa.Double(), nullable=True),
        sa.Column("stage", sa.Text(), nullable=True),
        sa.Column("message", sa.Text(), nullable=True),
        sa.Column(
            "metrics",
            postgresql.JSONB(none_as_null=True, astext_type=sa.Text()),
            server_default=sa.text("'{}'"),
            nullable=False,
        ),
        sa.Column(
            "warnings",
            postgresql.JSONB(none_as_null=True, astext_type=sa.Text()),
            server_default=sa.text("'[]'"),
            nullable=False,
        ),
        sa.Column(
            "data",
            postgresql.JSONB(none_as_null=True, astext_type=sa.Text()),
            server_default=sa.text("'{}'"),
            nullable=False,
        ),
        sa.Column("log_lines", sa.Integer(), server_default="0", nullable=False),
        sa.Column("log_dropped", sa.Integer(), server_default="0", nullable=False),
        sa.Column(
            "updated_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.PrimaryKeyConstraint("step_id", "attempt", name=op.f("pk_outputs")),
        postgresql_with={"fillfactor": 70},
    )
    op.create_index(op.f("ix_outputs_run_id"), "outputs", ["run_id"], unique=False)
    op.create_table(
        "throughput",
        sa.Column("tenant_id", sa.Uuid(), nullable=False),
        sa.Column("minute", sa.DateTime(timezone=True), nullable=False),
        sa.Column("workflow_id", sa.Uuid(), nullable=False),
        sa.Column("queue", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("runs", sa.Integer(), nullable=False),
        sa.Column("waited", sa.Double(), nullable=False),
        sa.Column("worked", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint(
            "tenant_id", "minute", "workflow_id", "queue", "state", name=op.f("pk_throughput")
        ),
    )
    op.create_index(op.f("ix_throughput_minute"), "throughput", ["minute"], unique=False)
    op.create_table(
        "workers",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("host", sa.Text(), nullable=False),
        sa.Column("pid", sa.Integer(), nullable=False),
        sa.Column("pool", sa.Text(), nullable=False),
        sa.Column("queues", postgresql.ARRAY(sa.Text()), nullable=False),
        sa.Column("capacity", sa.Integer(), nullable=False),
        sa.Column("active", sa.Integer(), nullable=False),
        sa.Column("draining", sa.Boolean(), nullable=False),
        sa.Column(
            "usage",
            postgresql.JSONB(none_as_null=True, astext_type=sa.Text()),
            server_default=sa.text("'{}'"),
            nullable=False,
        ),
        sa.Column(
            "versions",
            postgresql.JSONB(none_as_null=True, astext_type=sa.Text()),
            server_default=sa.text("'{}'"),
            nullable=False,
        ),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column(
            "seen_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False
        ),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_workers")),
    )
    op.create_table(
        "queue_uses",
        sa.Column("tenant_id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["tenant_id"], ["tenants.id"], name=op.f("fk_queue_uses_tenant_id")
        ),
        sa.PrimaryKeyConstraint("tenant_id", "name", name=op.f("pk_queue_uses")),
    )
    op.create_table(
        "webhooks",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("number", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("tenant_id", sa.Uuid(), nullable=False),
        sa.Column(
            "kind",
            sa.Enum(
                "webhook",
                "mail",
                name="deliverykind",
                native_enum=False,
                create_constraint=True,
                length=20,
            ),
            server_default="webhook",
            nullable=False,
        ),
        sa.Column("target", sa.Text(), nullable=False),
        sa.Column("events", postgresql.ARRAY(sa.Text()), nullable=False),
        sa.Column("workflow", sa.Text(), nullable=True),
        sa.Column("description", sa.Text(), nullable=True),
        sa.Column("active", sa.Boolean(), server_default=sa.text("true"), nullable=False),
        sa.Column("secret_number", sa.Integer(), server_default="1", nullable=False),
        sa.Column("rotated_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("created_by", sa.Text(), nullable=True),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.Column(
            "updated_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name=op.f("fk_webhooks_tenant_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_webhooks")),
    )
    op.create_index(
        "ix_webhooks_active",
        "webhooks",
        ["tenant_id"],
        unique=False,
        postgresql_where=sa.text("active"),
    )
    op.create_index(op.f("ix_webhooks_tenant_id_id"), "webhooks", ["tenant_id", "id"], unique=False)
    op.create_table(
        "deliveries",
        sa.Column("id", sa.Uuid(), server_default=sa.text("gen_random_uuid()"), nullable=False),
        sa.Column("tenant_id", sa.Uuid(), nullable=False),
        sa.Column("webhook_id", sa.Uuid(), nullable=True),
        sa.Column("run_id", sa.Uuid(), nullable=True),
        sa.Column("seq", sa.Integer(), nullable=True),
        sa.Column(
            "kind",
            sa.Enum(
                "webhook",
                "mail",
                name="deliverykind",
                native_enum=False,
                create_constraint=True,
                length=20,
            ),
            nullable=False,
        ),
        sa.Column("target", sa.Text(), nullable=False),
        sa.Column("lane", sa.Text(), nullable=False),
        sa.Column("event", sa.Text(), nullable=False),
        sa.Column(
            "payload",
            postgresql.JSONB(none_as_null=True, astext_type=sa.Text()),
            nullable=False,
        ),
        sa.Column(
            "state",
            sa.Enum(
                "waiting",
                "delivered",
                "failed",
                name="deliverystate",
                native_enum=False,
                create_constraint=True,
                length=20,
            ),
            server_default="waiting",
            nullable=False,
        ),
        sa.Column("attempts", sa.Integer(), server_default="0", nullable=False),
        sa.Column(
            "next_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=True
        ),
        sa.Column("delivered_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.ForeignKeyConstraint(
            ["webhook_id"],
            ["webhooks.id"],
            name=op.f("fk_deliveries_webhook_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_deliveries")),
    )
    op.create_index(op.f("ix_deliveries_run_id"), "deliveries", ["run_id"], unique=False)
    op.create_index(
        op.f("ix_deliveries_tenant_id_id"), "deliveries", ["tenant_id", "id"], unique=False
    )
    op.create_index(
        op.f("ix_deliveries_tenant_id_state_id"),
        "deliveries",
        ["tenant_id", "state", "id"],
        unique=False,
    )
    op.create_index(
        "ix_deliveries_lanes",
        "deliveries",
        ["lane", "next_at"],
        unique=False,
        postgresql_where=sa.text("state = 'waiting'"),
    )
    op.create_index(
        "ix_deliveries_waiting",
        "deliveries",
        ["next_at"],
        unique=False,
        postgresql_where=sa.text("state = 'waiting'"),
    )
    op.create_index(
        op.f("ix_deliveries_webhook_id_id"), "deliveries", ["webhook_id", "id"], unique=False
    )
    op.create_table(
        "delivery_attempts",
        sa.Column("delivery_id", sa.Uuid(), nullable=False),
        sa.Column("number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("tenant_id", sa.Uuid(), nullable=False),
        sa.Column("status", sa.Integer(), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("seconds", sa.Double(), nullable=False),
        sa.Column(
            "attempted_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.ForeignKeyConstraint(
            ["delivery_id"],
            ["deliveries.id"],
            name=op.f("fk_delivery_attempts_delivery_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("delivery_id", "number", name=op.f("pk_delivery_attempts")),
    )
    op.create_table(
        "schedules",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("number", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("tenant_id", sa.Uuid(), nullable=False),
        sa.Column("workflow_id", sa.Uuid(), nullable=False),
        sa.Column("workflow", sa.Text(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=True),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("description", sa.Text(), nullable=True),
        sa.Column(
            "type",
            sa.Enum(
                "api",
                "cron",
                "interval",
                "once",
                "event",
                name="scheduletype",
                native_enum=False,
                create_constraint=True,
                length=20,
            ),
            nullable=False,
        ),
        sa.Column("cron", sa.Text(), nullable=True),
        sa.Column("every", sa.Interval(), nullable=True),
        sa.Column("at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("after_workflow", sa.Text(), nullable=True),
        sa.Column("after_states", postgresql.ARRAY(sa.Text()), nullable=True),
        sa.Column("timezone", sa.Text(), server_default="UTC", nullable=False),
        sa.Column("jitter", sa.Interval(), nullable=True),
        sa.Column("start_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("end_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column(
            "overlap",
            sa.Enum(
                "allow",
                "skip",
                "buffer_one",
                "cancel_running",
                name="overlap",
                native_enum=False,
                create_constraint=True,
                length=20,
            ),
            server_default="allow",
            nullable=False,
        ),
        sa.Column(
            "catch_up",
            sa.Enum(
                "none",
                "latest",
                "all",
                name="catchup",
                native_enum=False,
                create_constraint=True,
                length=20,
            ),
            server_default="latest",
            nullable=False,
        ),
        sa.Column("active", sa.Boolean(), server_default=sa.text("true"), nullable=False),
        sa.Column(
            "params",
            postgresql.JSONB(none_as_null=True, astext_type=sa.Text()),
            server_default=sa.text("'{}'"),
            nullable=False,
        ),
        sa.Column("priority", sa.SmallInteger(), nullable=True),
        sa.Column("sla", sa.Interval(), nullable=True),
        sa.Column("run_as", sa.Text(), nullable=True),
        sa.Column(
            "tags", postgresql.ARRAY(sa.Text()), server_default=sa.text("'{}'"), nullable=False
        ),
        sa.Column(
            "settings",
            postgresql.JSONB(none_as_null=True, astext_type=sa.Text()),
            server_default=sa.text("'{}'"),
            nullable=False,
        ),
        sa.Column(
            "annotations",
            postgresql.JSONB(none_as_null=True, astext_type=sa.Text()),
            server_default=sa.text("'{}'"),
            nullable=False,
        ),
        sa.Column("token_number", sa.Integer(), server_default="1", nullable=False),
        sa.Column("next_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("fires_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("last_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("last_enabled_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("created_by", sa.Text(), nullable=True),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.Column(
            "updated_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name=op.f("fk_schedules_tenant_id")),
        sa.ForeignKeyConstraint(
            ["workflow_id"], ["workflows.id"], name=op.f("fk_schedules_workflow_id")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_schedules")),
    )
    op.create_index(
        "ix_schedules_events",
        "schedules",
        ["tenant_id", "after_workflow"],
        unique=False,
        postgresql_where=sa.text("active AND type = 'event'"),
    )
    op.create_index(
        "ix_schedules_fires_at",
        "schedules",
        ["fires_at"],
        unique=False,
        postgresql_where=sa.text("active"),
    )
    op.create_index(op.f("ix_schedules_number"), "schedules", ["number"], unique=True)
    op.create_index(
        op.f("ix_schedules_tenant_id_id"), "schedules", ["tenant_id", "id"], unique=False
    )
    op.create_index(
        op.f("ix_schedules_workflow_id_id"), "schedules", ["workflow_id", "id"], unique=False
    )
    op.create_table(
        "backfills",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("number", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("tenant_id", sa.Uuid(), nullable=False),
        sa.Column("schedule_id", sa.Uuid(), nullable=False),
        sa.Column("workflow", sa.Text(), nullable=False),
        sa.Column("start_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("end_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("parallel", sa.Integer(), nullable=False),
        sa.Column("total", sa.Integer(), nullable=False),
        sa.Column("instants", postgresql.ARRAY(sa.DateTime(timezone=True)), nullable=False),
        sa.Column("submitted", sa.Integer(), server_default="0", nullable=False),
        sa.Column("refused", sa.Integer(), server_default="0", nullable=False),
        sa.Column("detail", sa.Text(), nullable=True),
        sa.Column(
            "state",
            sa.Enum(
                "running",
                "finished",
                "cancelled",
                name="backfillstate",
                native_enum=False,
                create_constraint=True,
                length=20,
            ),
            server_default="running",
            nullable=False,
        ),
        sa.Column(
            "params",
            postgresql.JSONB(none_as_null=True, astext_type=sa.Text()),
            server_default=sa.text("'{}'"),
            nullable=False,
        ),
        sa.Column("priority", sa.SmallInteger(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("submitted_by", sa.Text(), nullable=True),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(
            ["schedule_id"],
            ["schedules.id"],
            name=op.f("fk_backfills_schedule_id"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name=op.f("fk_backfills_tenant_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_backfills")),
    )
    op.create_index(op.f("ix_backfills_number"), "backfills", ["number"], unique=True)
    op.create_index(
        "ix_backfills_running",
        "backfills",
        ["id"],
        unique=False,
        postgresql_where=sa.text("state = 'running'"),
    )
    op.create_index(
        op.f("ix_backfills_tenant_id_id"), "backfills", ["tenant_id", "id"], unique=False
    )
    op.create_table(
        "firings",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("tenant_id", sa.Uuid(), nullable=False),
        sa.Column("schedule_id", sa.Uuid(), nullable=False),
        sa.Column("due_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("source_run_id", sa.Uuid(), nullable=True),
        sa.Column("source_seq", sa.Integer(), nullable=True),
        sa.Column(
            "outcome",
            sa.Enum(
                "waiting",
                "submitted",
                "skipped",
                "refused",
                name="firingoutcome",
                native_enum=False,
                create_constraint=True,
                length=20,
            ),
            server_default="waiting",
            nullable=False,
        ),
        sa.Column("detail", sa.Text(), nullable=True),
        sa.Column("run_id", sa.Uuid(), nullable=True),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.ForeignKeyConstraint(
            ["schedule_id"],
            ["schedules.id"],
            name=op.f("fk_firings_schedule_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_firings")),
    )
    op.create_index(
        op.f("ix_firings_schedule_id_id"), "firings", ["schedule_id", "id"], unique=False
    )
    op.create_index(
        "ix_firings_waiting",
        "firings",
        ["id"],
        unique=False,
        postgresql_where=sa.text("outcome = 'waiting'"),
    )
    op.create_index(
        "uq_firings_event",
        "firings",
        ["schedule_id", "source_run_id", "source_seq"],
        unique=True,
        postgresql_where=sa.text("source_run_id IS NOT NULL"),
    )
    op.create_index(
        "uq_firings_instant",
        "firings",
        ["schedule_id", "due_at"],
        unique=True,
        postgresql_where=sa.text("source_run_id IS NULL"),
    )
    op.add_column(
        "attempts",
        sa.Column(
            "usage", postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), nullable=True
        ),
    )
    # In two steps: with its real default, every event there is would be written anew.
    op.add_column("events", sa.Column("tx", sa.BigInteger(), server_default="0", nullable=False))
    op.alter_column(
        "events", "tx", server_default=sa.text("CAST(CAST(pg_current_xact_id() AS text) AS bigint)")
    )
    op.create_index(
        op.f("ix_events_tenant_id_tx_id"), "events", ["tenant_id", "tx", "id"], unique=False
    )
    op.add_column(
        "keys",
        sa.Column(
            "kind",
            sa.Enum(
                "key",
                "oauth_client",
                name="keykind",
                native_enum=False,
                create_constraint=True,
                length=20,
            ),
            server_default="key",
            nullable=False,
        ),
    )
    op.add_column("keys", sa.Column("client_id", sa.Text(), nullable=True))
    op.add_column("keys", sa.Column("user", sa.Text(), nullable=True))
    op.add_column("keys", sa.Column("scopes", postgresql.ARRAY(sa.Text()), nullable=True))
    op.add_column("keys", sa.Column("starts_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column("keys", sa.Column("last_used_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column("keys", sa.Column("replaced_by", sa.Uuid(), nullable=True))
    op.create_unique_constraint(op.f("uq_keys_client_id"), "keys", ["client_id"])
    op.add_column("runs", sa.Column("source_type", sa.Text(), nullable=True))
    op.add_column("runs", sa.Column("source_id", sa.Text(), nullable=True))
    op.add_column("runs", sa.Column("run_as", sa.Text(), nullable=True))
    op.add_column("runs", sa.Column("project_id", sa.Uuid(), nullable=True))
    op.add_column(
        "runs", sa.Column("environment", sa.Text(), server_default="production", nullable=False)
    )
    op.add_column("runs", sa.Column("name", sa.Text(), nullable=True))
    op.add_column("runs", sa.Column("description", sa.Text(), nullable=True))
    op.add_column(
        "runs",
        sa.Column(
            "annotations",
            postgresql.JSONB(none_as_null=True, astext_type=sa.Text()),
            server_default=sa.text("'{}'"),
            nullable=False,
        ),
    )
    op.add_column(
        "runs",
        sa.Column(
            "variables", postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), nullable=True
        ),
    )
    op.add_column(
        "runs",
        sa.Column(
            "event_variables",
            postgresql.JSONB(none_as_null=True, astext_type=sa.Text()),
            nullable=True,
        ),
    )
    op.add_column("runs", sa.Column("schedule_id", sa.Uuid(), nullable=True))
    op.add_column("runs", sa.Column("backfill_id", sa.Uuid(), nullable=True))
    op.add_column("runs", sa.Column("logical_date", sa.DateTime(timezone=True), nullable=True))
    op.add_column("runs", sa.Column("depth", sa.SmallInteger(), server_default="0", nullable=False))
    op.add_column("runs", sa.Column("concurrency_key", sa.Text(), nullable=True))
    op.add_column(
        "runs",
        sa.Column(
            "notifications",
            postgresql.JSONB(none_as_null=True, astext_type=sa.Text()),
            nullable=True,
        ),
    )
    op.add_column(
        "runs", sa.Column("held", sa.Boolean(), server_default=sa.text("false"), nullable=False)
    )
    op.add_column("runs", sa.Column("late_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column(
        "runs",
        sa.Column("passed_sla", sa.Boolean(), server_default=sa.text("false"), nullable=False),
    )
    op.add_column("runs", sa.Column("warnings", sa.Integer(), server_default="0", nullable=False))
    op.drop_index(
        op.f("ix_runs_waiting"),
        table_name="runs",
        postgresql_where="(((state)::text = 'pending'::text) AND due)",
    )
    op.create_index(
        "ix_runs_waiting",
        "runs",
        ["queue", "tenant_id", sa.literal_column("priority DESC"), "number"],
        unique=False,
        postgresql_where=sa.text("state = 'pending' AND due"),
    )
    op.create_index(
        op.f("ix_runs_backfill_id_id"),
        "runs",
        ["backfill_id", "id"],
        unique=False,
        postgresql_where=sa.text("backfill_id IS NOT NULL"),
    )
    op.create_index(
        "ix_runs_succeeded",
        "runs",
        ["workflow_id", "finished_at"],
        unique=False,
        postgresql_where=sa.text("state = 'succeeded'"),
    )
    op.create_index(
        op.f("ix_runs_finished_at"),
        "runs",
        ["finished_at"],
        unique=False,
        postgresql_where=sa.text("finished_at IS NOT NULL"),
    )
    op.create_index(
        "ix_runs_holds_key",
        "runs",
        ["workflow_id", "concurrency_key"],
        unique=True,
        postgresql_where=sa.text(
            "concurrency_key IS NOT NULL AND (state = 'pending' AND due OR state IN ('queued', 'running', 'cancelling'))"
        ),
    )
    op.create_index(
        "ix_runs_late_at",
        "runs",
        ["late_at"],
        unique=False,
        postgresql_where=sa.text(
            "late_at IS NOT NULL AND NOT passed_sla AND state IN ('pending', 'queued', 'running', 'cancelling')"
        ),
    )
    op.create_index(
        op.f("ix_runs_schedule_id_id"),
        "runs",
        ["schedule_id", "id"],
        unique=False,
        postgresql_where=sa.text("schedule_id IS NOT NULL"),
    )
    op.create_index(
        "ix_runs_open_of_schedule",
        "runs",
        ["schedule_id"],
        unique=False,
        postgresql_where=sa.text(
            "schedule_id IS NOT NULL AND state IN ('pending', 'queued', 'running', 'cancelling')"
        ),
    )
    op.create_index(
        "ix_runs_waits_for_key",
        "runs",
        ["workflow_id", "concurrency_key", "number"],
        unique=False,
        postgresql_where=sa.text(
            "concurrency_key IS NOT NULL AND state = 'pending' AND NOT due AND NOT held"
        ),
    )
    op.add_column("steps", sa.Column("result_artifact", sa.Uuid(), nullable=True))
    op.add_column("steps", sa.Column("warnings", sa.Integer(), server_default="0", nullable=False))
    op.add_column(
        "tenants",
        sa.Column(
            "settings",
            postgresql.JSONB(none_as_null=True, astext_type=sa.Text()),
            server_default=sa.text("'{}'"),
            nullable=False,
        ),
    )
    op.add_column("versions", sa.Column("tag", sa.Text(), nullable=True))
    op.add_column(
        "workflows",
        sa.Column(
            "annotations",
            postgresql.JSONB(none_as_null=True, astext_type=sa.Text()),
            server_default=sa.text("'{}'"),
            nullable=False,
        ),
    )
    op.execute(
        "UPDATE runs SET project_id = workflows.project_id FROM workflows WHERE workflows.id = runs.workflow_id"
    )
    op.execute(
        "INSERT INTO queue_uses (tenant_id, name) SELECT DISTINCT tenant_id, queue FROM steps"
    )
    op.execute(BACKLOG)
    op.execute(MAY_START)
    _wall()


def _wall() -> None:
    # The role belongs to the whole server: another database of it may have made it already.
    op.execute(f"""
        DO $$ BEGIN
          BEGIN
            IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = '{ROLE}') THEN
              CREATE ROLE {ROLE} NOLOGIN NOBYPASSRLS;
            END IF;
          EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL;
          END;
          -- Also who made a role must be granted it before he may act as it (since Postgres 16).
          BEGIN
            EXECUTE format('GRANT {ROLE} TO %I', current_user);
          EXCEPTION WHEN insufficient_privilege THEN
            IF NOT pg_has_role(current_user, '{ROLE}', 'MEMBER') THEN
              RAISE;
            END IF;
          END;
        END $$
    """)
    op.execute(
        f"DO $$ BEGIN EXECUTE format('GRANT USAGE ON SCHEMA %I TO {ROLE}', current_schema()); END $$"
    )
    op.execute(f"GRANT SELECT, INSERT, UPDATE, DELETE ON {', '.join([*WALLS, *OPEN])} TO {ROLE}")
    op.execute(f"GRANT EXECUTE ON FUNCTION may_start TO {ROLE}")
    for table, condition in WALLS.items():
        op.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")
        op.execute(f"CREATE POLICY tenant ON {table} TO {ROLE} USING ({condition})")
