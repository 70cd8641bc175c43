"""Pauses between the attempts of a delivery."""

from datetime import timedelta

from orchestrator.notifications.deliveries import Backoff


def test_the_pauses_stay_below_a_day_whatever_the_retry_after() -> None:
    def total(retry_after: float) -> timedelta:
        pauses = [Backoff().pause(attempts, retry_after) for attempts in range(1, 9)]
        return sum((each for each in pauses if each), timedelta())

    assert Backoff().pause(9) is None
    assert timedelta(hours=14) < total(0) < timedelta(days=1)
    assert timedelta(hours=15) < total(10**9) < timedelta(days=1)
    assert Backoff(jitter=0).pause(1) == timedelta(seconds=5)
    assert Backoff(jitter=0).pause(1, 60) == timedelta(minutes=1)
