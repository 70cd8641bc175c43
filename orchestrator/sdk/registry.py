"""The registry of handlers in a worker process."""

import importlib
from collections.abc import Iterable
from importlib.metadata import entry_points

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
        """The handlers in the modules, and in those of the entry points `orchestrator.steps`.

        Raises ImportError for a module that does not import.
        """
        loaded = [importlib.import_module(name) for name in modules]
        loaded += [point.load() for point in entry_points(group=ENTRY_POINTS)]
        values = (value for module in loaded for value in vars(module).values())
        return cls(value for value in values if isinstance(value, Handler))

    def extend(self, other: "Registry") -> None:
        """Add the handlers of another registry. Raises ImportError for a duplicate name."""
        for handler in other._handlers.values():
            self._add(handler)

    def get(self, name: str) -> Handler | None:
        """The handler with this name, if this worker has it."""
        return self._handlers.get(name)

    def names(self) -> list[str]:
        """The names of all handlers, sorted."""
        return sorted(self._handlers)

    def timeouts(self) -> dict[str, float]:
        """The timeouts of handlers that have one, by name."""
        return {
            name: handler.timeout for name, handler in self._handlers.items() if handler.timeout
        }

    def _add(self, handler: Handler) -> None:
        known = self._handlers.setdefault(handler.name, handler)
        if known is not handler:
            raise ImportError(f"two handlers are called {handler.name!r}")
