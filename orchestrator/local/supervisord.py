"""supervisord that starts its programs at once, each with its own environment.

The original waits for a second first, and its programs inherit its environment.
"""

import json
import sys
from collections.abc import Mapping

from supervisor import supervisord


class _Supervisor(supervisord.Supervisor):  # type: ignore[misc]
    environs: Mapping[str, Mapping[str, str]] = {}  # by program

    def runforever(self) -> None:
        for group in sorted(self.process_groups.values()):
            for name, process in group.processes.items():
                process.config.environment = self.environs.get(name)
            group.transition()
        super().runforever()


if __name__ == "__main__":
    if sys.argv[1:2] == ["--environs"]:
        del sys.argv[1]
        _Supervisor.environs = json.load(sys.stdin)
    supervisord.Supervisor = _Supervisor
    supervisord.main()
