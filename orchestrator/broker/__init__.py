"""What we tell Celery over Redis; the only package that imports celery, kombu and redis."""
