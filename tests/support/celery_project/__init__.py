"""A project with Celery tasks that knows nothing of the orchestrator."""
