"""supervisord, but its programs start at once: by itself it first waits for a second."""

from supervisor import supervisord


class _Prompt(supervisord.Supervisor):  # type: ignore[misc]
    def runforever(self) -> None:
        for group in sorted(self.process_groups.values()):
            group.transition()
        super().runforever()


if __name__ == "__main__":
    supervisord.Supervisor = _Prompt
    supervisord.main()
