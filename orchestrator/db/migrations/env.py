"""How Alembic reaches the database: by the connection that `migrating` hands over."""

from alembic import context

from orchestrator.models import Run

connection = context.config.attributes["connection"]
context.configure(connection=connection, target_metadata=Run.metadata, compare_type=True)
with context.begin_transaction():
    context.run_migrations()
