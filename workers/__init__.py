"""Celery workers that execute steps, and the scheduler that keeps the promises."""
