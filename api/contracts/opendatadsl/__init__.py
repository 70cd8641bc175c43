"""OpenDataDSL process execution: process executions and processes."""

from api.contracts.opendatadsl import processes
from api.contracts.opendatadsl.executions import CONTRACT

__all__ = ["CONTRACT", "processes"]
