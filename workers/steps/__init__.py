"""The handlers that every worker has."""

from workers.steps.basic import fail, noop, sleep
from workers.steps.http import http
from workers.steps.shell import shell

__all__ = ["fail", "http", "noop", "shell", "sleep"]
