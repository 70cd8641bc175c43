"""supervisord that starts its programs at once, each with its own secrets.

The original waits for a second first, and its programs inherit its environment.
"""

import json
import sys
from collections.abc import Mapping
from typing import Any

from supervisor import process, supervisord

from config import handover


class _Process(process.Subprocess):  # type: ignore[misc]
    secrets: Mapping[str, Mapping[str, str]] = {}  # by program

    def spawn(self) -> Any:
        """Start the program, and send it its secrets."""
        self.config.environment = handover.STDIN
        pid = super().spawn()
        if pid:
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
