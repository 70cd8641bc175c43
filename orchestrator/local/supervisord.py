"""supervisord that starts its programs at once, each with its own secrets.

The original waits for a second first, and its programs inherit its environment.
"""

import json
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from supervisor import process, supervisord

from config import handover

_MAX_PAUSE = 60  # seconds before another start of a program that does not start


class _Process(process.Subprocess):  # type: ignore[misc]
    secrets: Mapping[str, Mapping[str, str]] = {}  # by program

    def change_state(self, new_state: int, expected: bool = True) -> Any:
        """Change it; the first restart is at once, each further one a second later than the last.

        The original lets the pauses grow without end.
        """
        changed = super().change_state(new_state, expected)
        if new_state == process.ProcessStates.BACKOFF:
            self.delay = time.time() + min(self.backoff - 1, _MAX_PAUSE)
        return changed

    def spawn(self) -> Any:
        """Start the program, and send it its secrets."""
        self.config.environment = handover.STDIN
        pid = super().spawn()
        if pid:
            with suppress(OSError):  # it has ended already
                self.write(handover.to_line(self.secrets[self.config.name]))
        return pid


class _Supervisor(supervisord.Supervisor):  # type: ignore[misc]
    def runforever(self) -> None:
        for group in sorted(self.process_groups.values()):
            group.transition()
        super().runforever()


if __name__ == "__main__":
    _Process.secrets = json.load(sys.stdin)
    process.Subprocess = _Process
    supervisord.Supervisor = _Supervisor
    supervisord.main()
