"""SolveXia process runs: process runs, processes, steps, files and logs."""

from api.contracts.solvexia.views import CONTRACT

__all__ = ["CONTRACT"]
