"""Changes to Celery and kombu."""
