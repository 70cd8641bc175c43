"""The Celery app for Flower: it needs Redis only."""

from config.settings import Settings
from orchestrator.broker.client import make_app

app = make_app(Settings.from_env().redis_url, publisher=False)
