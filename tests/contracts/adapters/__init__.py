"""The adapters of the conformance suite to the five contracts."""

from tests.contracts.adapter import Adapter
from tests.contracts.adapters import mage, mindzie, opendatadsl, solvexia, virtuousai

ADAPTERS: list[Adapter] = [
    opendatadsl.ADAPTER,
    solvexia.ADAPTER,
    mage.ADAPTER,
    mindzie.ADAPTER,
    virtuousai.ADAPTER,
]
