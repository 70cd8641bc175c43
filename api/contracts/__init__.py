"""The published run APIs that this server speaks, over the same services as its own."""

from collections.abc import Sequence

from api.contract import Contract
from api.contracts import mage, mindzie, opendatadsl, solvexia, virtuousai

CONTRACTS: Sequence[Contract] = (
    opendatadsl.CONTRACT,
    solvexia.CONTRACT,
    mage.CONTRACT,
    mindzie.CONTRACT,
    virtuousai.CONTRACT,
)


def chosen(names: Sequence[str]) -> list[Contract]:
    """The contracts of the setting, `all` of them or by name. Raises ValueError."""
    known = {contract.name: contract for contract in CONTRACTS}
    unknown = sorted({*names} - {*known, "all"})
    if unknown:
        told = f"unknown contract {unknown[0]!r}; there are all, {', '.join(known)}"
        raise ValueError(f"ORCHESTRATOR_CONTRACTS: {told}")
    return [contract for name, contract in known.items() if name in names or "all" in names]
