"""VirtuousAI automation runs: automation runs, automations and events."""

from api.contracts.virtuousai.views import CONTRACT

__all__ = ["CONTRACT"]
