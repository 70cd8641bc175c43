"""The handlers that every worker has."""

from collections.abc import Iterable

from orchestrator.sdk.registry import Registry
from orchestrator.sdk.steps import Handler
from workers.handlers.basic import fail, noop, sleep
from workers.handlers.http import http
from workers.handlers.shell import refuse_shell, shell_handler

__all__ = ["builtin_handlers", "fail", "http", "noop", "shell_handler", "sleep"]


def builtin_handlers(*, allow_shell: bool, shell_env: Iterable[str] = ()) -> Registry:
    """The built-in handlers; `shell` refuses every step unless `allow_shell`.

    Its commands get the variables `shell_env` of the worker's environment.
    """
    shell = shell_handler(shell_env) if allow_shell else Handler(refuse_shell, "shell")
    return Registry([fail, http, noop, shell, sleep])
