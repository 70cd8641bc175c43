"""mindzie Studio execution jobs: execution jobs of a project."""

from api.contracts.mindzie.views import CONTRACT

__all__ = ["CONTRACT"]
