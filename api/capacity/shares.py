"""A number of places, shared by rule: there is always one for who has none."""

from collections import Counter
from collections.abc import Hashable
from typing import NamedTuple, TypeVar

_Key = TypeVar("_Key", bound=Hashable)


class Party(NamedTuple):
    """Whose a request is: a key of a tenant; before the key is checked, of an address."""

    tenant: Hashable
    key: Hashable


class Shares:
    """A key may hold as many places as are free, a tenant twice as many.

    So a key alone gets half of them, a tenant alone two thirds, and each newcomer makes all shares
    smaller; nobody has to know how many there are.
    """

    def __init__(self, size: float) -> None:
        self.size = size
        self.used = 0
        self._keys: Counter[Party] = Counter()
        self._tenants: Counter[Hashable] = Counter()

    def has_room(self, party: Party) -> bool:
        """Whether the party may take one more place."""
        free = self.size - self.used
        return self._keys[party] < free and self._tenants[party.tenant] < 2 * free

    def of_key(self, party: Party) -> int:
        """How many places the key holds."""
        return self._keys[party]

    def of_tenant(self, party: Party) -> int:
        """How many places the party's tenant holds."""
        return self._tenants[party.tenant]

    def take(self, party: Party) -> None:
        """Take a place, also beyond the share."""
        self.used += 1
        self._keys[party] += 1
        self._tenants[party.tenant] += 1

    def give_back(self, party: Party) -> None:
        """Give a place back."""
        self.used -= 1
        _decrement(self._keys, party)
        _decrement(self._tenants, party.tenant)


def _decrement(counts: Counter[_Key], key: _Key) -> None:
    """Count one down, and keep no zero: parties come and go."""
    counts[key] -= 1
    if not counts[key]:
        del counts[key]
