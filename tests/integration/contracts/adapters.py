"""The five contracts, as the suite speaks to them."""

from tests.integration.contracts import (
    mage_adapter,
    mindzie_adapter,
    opendatadsl_adapter,
    solvexia_adapter,
    virtuousai_adapter,
)
from tests.integration.contracts.adapter import Adapter

ADAPTERS: list[Adapter] = [
    opendatadsl_adapter.ADAPTER,
    solvexia_adapter.ADAPTER,
    mage_adapter.ADAPTER,
    mindzie_adapter.ADAPTER,
    virtuousai_adapter.ADAPTER,
]
