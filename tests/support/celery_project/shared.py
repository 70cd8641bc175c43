"""Tasks without an app of their own, as libraries have them."""

from typing import Any

from celery import current_app, shared_task


@shared_task(name="project.shared", bind=True)
def shared(self: Any) -> list[str]:
    """The app that this task is bound to, and the current one."""
    return [self.app.main, current_app.main]
