"""Tasks that `autodiscover_tasks` finds."""

from tests.support.celery_project.celery import app


@app.task(name="project.discovered")
def discovered() -> str:
    """A task in a discovered module."""
    return "discovered"
