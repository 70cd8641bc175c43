"""Dropped messages are counted each, and logged once a minute for each source and reason."""

import pytest

from orchestrator.broker.drops import Drops


def test_every_message_is_counted_and_few_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    drops = Drops()
    for _ in range(1000):
        drops.add("default", "it is malformed")
    drops.add("default", "it is malformed", 0)
    drops.add("default", "its size is wrong", 5)

    assert drops.total == 1005
    assert caplog.messages == ["foreign message dropped"] * 2
