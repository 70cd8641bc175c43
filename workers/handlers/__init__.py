"""The handlers that every worker has."""

from workers.handlers.basic import fail, noop, sleep
from workers.handlers.http import http
from workers.handlers.shell import shell

__all__ = ["fail", "http", "noop", "shell", "sleep"]
