"""Mage pipeline runs: pipeline runs, triggers and block runs."""

from api.contracts.mage.views import CONTRACT

__all__ = ["CONTRACT"]
