"""The project's Celery app, as `celery -A tests.support.celery_project.celery` would load it."""

from celery import Celery

app = Celery("project", broker="memory://", include=["tests.support.celery_project.tasks"])
app.conf.imports = ["tests.support.celery_project.shared"]
app.conf.task_routes = {"project.*": {"queue": "elsewhere"}}
app.autodiscover_tasks(["tests.support.celery_project.reports"])
