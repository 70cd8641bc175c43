"""What the sweeps have to do: the rows that each of them is there for, and if there are any."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from orchestrator import limits

WITHOUT_KEY = "NOT due AND run_at <= now() AND NOT held AND concurrency_key IS NULL"
GOES_ON = "state IN ('pending', 'queued', 'running', 'cancelling')"


class Rows(NamedTuple):
    """Some rows of a table, and how the index begins in which there are no others, if it has one.

    Asked plainly whether there are any, Postgres may take rows that are not there for so likely
    that it looks for the first one in the whole table. For their order it has to ask the index.
    """

    table: str
    which: str
    first_by: str

    @property
    def exist(self) -> str:
        """SQL for whether there are any."""
        first = f"SELECT FROM {self.table} WHERE {self.which} ORDER BY {self.first_by} LIMIT 1"
        return f"EXISTS (SELECT FROM ({first}) first)"


_UNCLAIMED = "published_at < now() - CAST(:unclaimed AS interval)"
_ROWS: Mapping[str, Sequence[Rows]] = {
    "admit": [
        Rows("runs", "state = 'pending' AND due", "queue"),
        Rows("steps", "state = 'queued' AND published_at IS NULL", "queue"),
    ],
    "fall_due": [Rows("runs", f"state = 'pending' AND {WITHOUT_KEY}", "run_at")],
    "pass_on": [Rows("runs", f"concurrency_key IS NOT NULL AND {limits.WAITS}", "workflow_id")],
    "be_late": [Rows("runs", f"late_at <= now() AND NOT passed_sla AND {GOES_ON}", "late_at")],
    "wake": [Rows("steps", "state = 'waiting' AND wake_at <= now()", "wake_at")],
    "rescue": [
        Rows("attempts", "outcome IS NULL AND lease_until < now()", "step_id"),
        Rows("attempts", "outcome IS NULL AND kill_at < now() - interval '2 s'", "step_id"),
        Rows("runs", "state = 'cancelling' AND stop_by < now() - interval '1 s'", "id"),
    ],
    "republish": [Rows("steps", f"state = 'queued' AND {_UNCLAIMED}", "queue")],
    "deliver": [Rows("deliveries", "state = 'waiting' AND next_at <= now()", "next_at")],
    "fire": [Rows("schedules", "active AND fires_at <= now()", "fires_at")],
    "fire_events": [Rows("firings", "outcome = 'waiting'", "id")],
    "backfill": [Rows("backfills", "state = 'running'", "id")],
    "fold": [Rows("backlog_changes", "true", "id"), Rows("tally_changes", "true", "id")],
    "expire": [Rows("runs", "state = 'running' AND deadline_at <= now()", "deadline_at")],
}
_ANY = (f"{' OR '.join(rows.exist for rows in some)} AS {name}" for name, some in _ROWS.items())
# Which sweeps have any: one row with a column for each. Needs `:unclaimed`.
LOOK = f"SELECT {', '.join(_ANY)}"
