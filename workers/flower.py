"""The Celery app that Flower looks through: it needs Redis, and nothing else of ours."""

from config.settings import Settings
from orchestrator.broker.client import make_app

app = make_app(Settings.from_env().redis_url, publisher=False)
