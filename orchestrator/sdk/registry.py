"""The handlers that a worker process knows, by name."""

import importlib
from collections.abc import Iterable
from importlib.metadata import entry_points
from types import ModuleType

from orchestrator.sdk.steps import Handler

ENTRY_POINTS = "orchestrator.steps"


class Registry:
    """The handlers that a worker process knows, by name."""

    def __init__(self, handlers: Iterable[Handler] = ()) -> None:
        self._handlers: dict[str, Handler] = {}
        for handler in handlers:
            self._add(handler)

    @classmethod
    def load(cls, modules: Iterable[str]) -> "Registry":
        """Import the modules, and those of the entry points `orchestrator.steps`, for handlers.

        Raises ImportError for a module that does not import.
        """
        found = [importlib.import_module(name) for name in modules]
        found += [point.load() for point in entry_points(group=ENTRY_POINTS)]
        return cls(handler for module in found for handler in _handlers_in(module))

    def extend(self, other: "Registry") -> None:
        """Add the handlers of another registry. Raises ImportError for a name taken twice."""
        for handler in other._handlers.values():
            self._add(handler)

    def get(self, name: str) -> Handler | None:
        """The handler with this name, if this worker has it."""
        return self._handlers.get(name)

    def names(self) -> list[str]:
        """Every name this worker knows."""
        return sorted(self._handlers)

    def _add(self, handler: Handler) -> None:
        known = self._handlers.setdefault(handler.name, handler)
        if known is not handler:
            raise ImportError(f"two handlers are called {handler.name!r}")


def _handlers_in(module: ModuleType) -> list[Handler]:
    return [value for value in vars(module).values() if isinstance(value, Handler)]
