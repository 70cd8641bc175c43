"""The handlers that every worker has."""

from collections.abc import Iterable

from orchestrator.sdk.registry import Registry
from orchestrator.sdk.steps import Handler
from workers.handlers.basic import fail, noop, sleep
from workers.handlers.http import http_handler
from workers.handlers.shell import refuse_shell, shell_handler

__all__ = ["builtin_handlers", "fail", "http_handler", "noop", "shell_handler", "sleep"]


def builtin_handlers(
    *, allow_shell: bool, shell_env: Iterable[str] = (), http_private_targets: bool = False
) -> Registry:
    """The built-in handlers; `shell` refuses every step unless `allow_shell`.

    Its commands get the variables `shell_env` of the worker's environment. `http` calls private
    addresses with `http_private_targets` only.
    """
    shell = shell_handler(shell_env) if allow_shell else Handler(refuse_shell, "shell")
    http = http_handler(allow_private=http_private_targets)
    return Registry([fail, http, noop, shell, sleep])
