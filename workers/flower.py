"""The Celery app for Flower: it needs Redis only."""

import os

from config import handover
from config.settings import Settings
from orchestrator.broker.client import make_app

app = make_app(Settings.from_env().redis_url, publisher=False)
# Flower reads its options there. What is set now, /proc does not show.
os.environ |= {
    name: text for name, text in handover.secrets().items() if name.startswith("FLOWER_")
}
