"""Long checks give way to other requests, where there are any."""

import pytest

from orchestrator import work_limits


def test_a_process_without_requests_never_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(work_limits, "_turn", work_limits._Turn())
    monkeypatch.setattr(work_limits.time, "sleep", pauses.append)

    work_limits.take_step()  # as a worker does for each result
    assert pauses == []

    work_limits.begin_turn()
    work_limits._turn.end = 0
    work_limits.take_step()
    assert len(pauses) == 1
