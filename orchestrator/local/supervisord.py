"""supervisord, but its programs start at once, each with an environment of its own.

By itself it first waits for a second, and lets each program inherit its own environment.
"""

import json
import sys
from collections.abc import Mapping

from supervisor import supervisord


class _Prompt(supervisord.Supervisor):  # type: ignore[misc]
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
        _Prompt.environs = json.load(sys.stdin)
    supervisord.Supervisor = _Prompt
    supervisord.main()
