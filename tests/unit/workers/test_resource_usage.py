"""What a child uses, as its parent measures it."""

import subprocess
import sys

import psutil
import pytest

from tests.support.factories import eventually
from workers.isolation.resource_usage import ChildMeter


def test_a_child_is_measured_from_its_parent() -> None:
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as child:
        try:
            meter = ChildMeter(child.pid)
            used = eventually(meter.read, within=30, until=lambda each: each["cpu_seconds"] > 0)
            later = meter.read()
        finally:
            child.kill()

    assert used["peak_memory_bytes"] > 1_000_000
    assert later["peak_memory_bytes"] >= used["peak_memory_bytes"]
    assert later["cpu_seconds"] >= used["cpu_seconds"]
    with pytest.raises(psutil.Error):
        meter.read()
