"""Limits the processor time of checks, and lets other requests run meanwhile.

The API serves all requests in one thread. Work that grows with what the caller sends, or with what
an answer shows, calls `take_step` in its loops; under gevent its sleep is the turn of the others.
"""

import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TypeVar

from orchestrator.errors import Invalid

Item = TypeVar("Item")

_TURN = 0.01  # seconds without a pause, of all checks in progress together
_PAUSE = 0.0001  # seconds; 0 would not let gevent look for input


@dataclass
class _Limit:
    end: float  # in processor time of the thread; each pause moves it
    message: str


@dataclass
class _Turn:
    """The turn of the check that runs; `waiting` others are in a pause."""

    end: float = 0.0
    waiting: int = 0
    is_shared: bool = False  # with other requests; not in a worker or a scheduler


_limits: ContextVar[tuple[_Limit, ...]] = ContextVar("limits", default=())
_turn = _Turn()
_counting = threading.Lock()  # schedulers and workers have threads


@contextmanager
def work_limit(seconds: float, subject: str) -> Iterator[None]:
    """Limit the processor time of the steps inside, which wait for nothing but their turn.

    `subject` begins the message of the Invalid that `take_step` raises beyond the limit.
    """
    message = f"{subject} takes more than {seconds:g} s of processor time; send less or simpler"
    limit = _Limit(time.thread_time() + seconds, message)
    token = _limits.set((*_limits.get(), limit))
    try:
        yield
    finally:
        _limits.reset(token)


def take_step() -> None:
    """Let other requests run, if it is time. Raises Invalid beyond a limit."""
    if time.perf_counter() >= _turn.end:
        _pause()


def in_turns(items: Iterable[Item]) -> Iterator[Item]:
    """The items of what may be a long list; other requests run in between."""
    for item in items:
        take_step()
        yield item


def _pause() -> None:
    start, limits = time.thread_time(), _limits.get()
    for limit in limits:
        if start > limit.end:
            raise Invalid(limit.message)
    if _turn.is_shared:
        with _counting:
            _turn.waiting += 1
        try:
            time.sleep(_PAUSE)
        finally:
            with _counting:
                _turn.waiting -= 1
        passed = time.thread_time() - start
        for limit in limits:
            limit.end += passed
    _begin_turn()


def begin_turn() -> None:
    """A request begins, after others have run: the next pause is due after a whole turn."""
    _turn.is_shared = True
    _begin_turn()


def _begin_turn() -> None:
    _turn.end = time.perf_counter() + _TURN / (1 + _turn.waiting)
