"""Celery over Redis: the only package of the core that imports celery, kombu and redis."""
