"""Turns: who is next, who is refused, and how many there are."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from werkzeug.exceptions import TooManyRequests

from api.capacity.shares import Party
from api.capacity.turns import Turns
from orchestrator.errors import Unavailable
from tests.support.factories import eventually

A, B = Party("a", 1), Party("b", 1)


class Crowd:
    """Requests that each hold a turn until they are let go."""

    def __init__(self, turns: Turns) -> None:
        self._turns = turns
        self.working: list[Party] = []  # in the order in which they got their turns
        self._threads: list[threading.Thread] = []
        self._go: dict[Party, threading.Semaphore] = {}

    def come(self, party: Party, count: int = 1) -> None:
        """Requests of a party."""
        for _ in range(count):
            self._go.setdefault(party, threading.Semaphore(0))
            thread = threading.Thread(target=self._request, args=(party,))
            thread.start()
            self._threads.append(thread)

    def go(self, party: Party, count: int = 1) -> None:
        """Let requests of a party end."""
        for _ in range(count):
            self._go[party].release()

    def _request(self, party: Party) -> None:
        self._turns.begin(party)
        self.working.append(party)
        self._go[party].acquire()
        self._turns.end(party)

    def leave(self) -> None:
        """End all."""
        for party in self._go:
            self.go(party, len(self._threads))
        for thread in self._threads:
            thread.join(10)


@contextmanager
def a_crowd(turns: Turns) -> Iterator[Crowd]:
    crowd = Crowd(turns)
    try:
        yield crowd
    finally:
        crowd.leave()


def _refused(turns: Turns, party: Party, count: int) -> Exception:
    """The first refusal of so many requests at once."""
    refusals: list[Exception] = []

    def ask() -> None:
        try:
            turns.begin(party)
        except (TooManyRequests, Unavailable) as error:
            refusals.append(error)

    threads = [threading.Thread(target=ask) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    return refusals[0]


def _waiting(turns: Turns) -> Callable[[], int]:
    return lambda: sum(map(len, turns._queue.values()))


def test_a_flood_of_one_tenant_leaves_turns_for_another() -> None:
    turns = Turns(4, timeout=30)
    with a_crowd(turns) as crowd:
        crowd.come(A, 20)
        eventually(_waiting(turns), until=lambda count: count == 18)
        assert crowd.working == [A, A]

        crowd.come(B)

        eventually(lambda: crowd.working == [A, A, B])


def test_the_tenant_with_the_fewest_in_work_is_next() -> None:
    turns = Turns(4, timeout=30)
    with a_crowd(turns) as crowd:
        crowd.come(A, 10)
        crowd.come(B, 10)
        eventually(_waiting(turns), until=lambda count: count == 17)

        for party in (A, B) * 4:
            before = len(crowd.working)
            if party in crowd.working:
                crowd.go(party)
                eventually(lambda before=before: len(crowd.working) > before)

        assert abs(crowd.working.count(A) - crowd.working.count(B)) <= 2


def test_who_has_too_many_in_the_queue_is_refused_and_nobody_else() -> None:
    turns = Turns(4, timeout=30)
    with a_crowd(turns) as crowd:
        crowd.come(A, 2 + 64)
        eventually(_waiting(turns), until=lambda count: count == 64)

        with pytest.raises(TooManyRequests) as refusal:
            turns.begin(A)

        assert refusal.value.retry_after == 1
        turns.begin(B)
        turns.end(B)


def test_who_waited_too_long_is_refused_and_leaves_the_queue() -> None:
    turns = Turns(4, timeout=0.5)
    for _ in range(2):
        turns.begin(A)

    with pytest.raises(Unavailable):
        turns.begin(A)
    assert isinstance(_refused(turns, A, 2), TooManyRequests)

    assert _waiting(turns)() == 0
    turns.end(A)
    turns.begin(A)


def test_in_an_overload_one_request_of_a_key_may_wait_and_the_others_are_refused_at_once() -> None:
    turns = Turns(4, timeout=1)
    for number in range(2):
        turns.begin(A)
        turns.begin(Party(number, number))
    with pytest.raises(Unavailable):
        turns.begin(A)
    with a_crowd(turns) as crowd:
        crowd.come(B)
        eventually(_waiting(turns), until=bool)
        for party in (A, B):
            since = time.monotonic()
            with pytest.raises(TooManyRequests):
                turns.begin(party)
            assert time.monotonic() - since < 0.5

        turns.end(A)

        eventually(lambda: crowd.working == [B])


def test_a_queue_that_stays_is_an_overload_until_there_was_none_for_some_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("api.capacity.turns._CALM", 0.5)
    turns = Turns(4, timeout=0.9)
    for _ in range(2):
        turns.begin(A)
    with a_crowd(turns) as crowd:
        crowd.come(A)
        eventually(_waiting(turns), until=bool)
        time.sleep(0.4)
        with pytest.raises(TooManyRequests):
            turns.begin(A)
        turns.end(A)
        eventually(lambda: crowd.working == [A])
        time.sleep(0.6)

        crowd.come(A, 5)

        eventually(_waiting(turns), until=lambda count: count == 5)


def test_the_fewest_turns_are_enough_for_another_key_and_another_tenant() -> None:
    turns = Turns(16, timeout=30)
    for _ in range(1000):
        turns.measure(0.01, quiet=True)
        turns.measure(0.1, quiet=False)
    with a_crowd(turns) as crowd:
        crowd.come(A, 20)
        eventually(_waiting(turns), until=lambda count: count == 18)

        crowd.come(Party("a", 2))
        crowd.come(B)

        eventually(lambda: len(crowd.working) == 4)


def test_who_resumes_is_before_the_queue() -> None:
    turns = Turns(4, timeout=30)
    with a_crowd(turns) as crowd:
        for number in range(4):
            crowd.come(Party(number, number))
        crowd.come(A, 3)
        resumed = threading.Event()
        eventually(_waiting(turns), until=lambda count: count >= 2)
        thread = threading.Thread(target=lambda: (turns.resume(B), resumed.set()))
        thread.start()
        eventually(lambda: bool(turns._resuming))

        crowd.go(Party(0, 0))

        assert resumed.wait(10)
        turns.end(B)


def test_requests_that_slow_each_other_are_fewer_at_once_and_then_more_again() -> None:
    turns = Turns(16, timeout=30)
    with a_crowd(turns) as crowd:
        for _ in range(1000):
            turns.measure(0.01, quiet=True)
            turns.measure(0.1, quiet=False)
        crowd.come(A, 20)
        eventually(_waiting(turns), until=lambda count: count == 18)

        for _ in range(1000):
            turns.measure(0.015, quiet=False)

        eventually(lambda: len(crowd.working) == 8)
