"""The handlers that every worker has."""

from orchestrator.sdk.registry import Registry
from orchestrator.sdk.steps import Handler
from workers.handlers.basic import fail, noop, sleep
from workers.handlers.http import http
from workers.handlers.shell import refuse_shell, shell

__all__ = ["builtin_handlers", "fail", "http", "noop", "shell", "sleep"]


def builtin_handlers(*, allow_shell: bool) -> Registry:
    """The built-in handlers; `shell` refuses every step unless `allow_shell`."""
    return Registry(
        [fail, http, noop, Handler(shell if allow_shell else refuse_shell, "shell"), sleep]
    )
