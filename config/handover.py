"""Secrets reach a process through a pipe, not in its environment.

Everything that runs as the same user can read in /proc the environment with which a process was
started, and the children of the process inherit it.
"""

import json
import os
from collections.abc import Mapping
from functools import cache

VARIABLE = "_ORCHESTRATOR_SECRETS"  # the descriptor that a process reads its secrets from
STDIN = {VARIABLE: "0"}


def to_line(secrets: Mapping[str, str]) -> bytes:
    """The secrets as the receiver reads them."""
    return json.dumps(secrets).encode() + b"\n"


def through_pipe(secrets: Mapping[str, str]) -> dict[str, str]:
    """Write the secrets to a pipe; returns the variable for the program that inherits it."""
    reading, writing = os.pipe()
    os.write(writing, to_line(secrets))
    os.close(writing)
    os.set_inheritable(reading, True)
    return {VARIABLE: str(reading)}


@cache
def secrets() -> Mapping[str, str]:
    """The variables that this process got through its pipe, which is read once."""
    text = os.environ.pop(VARIABLE, None)
    if text is None:
        return {}
    descriptor, data = int(text), b""
    while not data.endswith(b"\n") and (more := os.read(descriptor, 65536)):
        data += more
    os.close(descriptor)
    if descriptor == 0:  # a process has a standard input
        os.set_inheritable(os.open(os.devnull, os.O_RDONLY), True)
    variables: dict[str, str] = json.loads(data)
    return variables


def environ() -> dict[str, str]:
    """All variables of this process: those of its environment, and its secrets."""
    return {**os.environ, **secrets()}
