"""What the sweeps have to do: the rows that each of them is there for, and if there are any."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from orchestrator.engine import concurrency

RUNNABLE = "NOT due AND run_at <= now() AND NOT held AND concurrency_key IS NULL"
BACKFILL_ADVANCES = "state IN ('pending', 'queued', 'running', 'cancelling')"


class DueRows(NamedTuple):
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
_ROWS: Mapping[str, Sequence[DueRows]] = {
    "admit": [
        DueRows("runs", "state = 'pending' AND due", "queue"),
        DueRows("steps", "state = 'queued' AND published_at IS NULL", "queue"),
    ],
    "fall_due": [DueRows("runs", f"state = 'pending' AND {RUNNABLE}", "run_at")],
    "pass_on": [
        DueRows(
            "runs", f"concurrency_key IS NOT NULL AND {concurrency.WAITS_FOR_KEY}", "workflow_id"
        )
    ],
    "be_late": [
        DueRows("runs", f"late_at <= now() AND NOT passed_sla AND {BACKFILL_ADVANCES}", "late_at")
    ],
    "wake": [DueRows("steps", "state = 'waiting' AND wake_at <= now()", "wake_at")],
    "rescue": [
        DueRows("attempts", "outcome IS NULL AND lease_until < now()", "step_id"),
        DueRows("attempts", "outcome IS NULL AND kill_at < now() - interval '2 s'", "step_id"),
        DueRows("runs", "state = 'cancelling' AND stop_by < now() - interval '1 s'", "id"),
    ],
    "republish": [DueRows("steps", f"state = 'queued' AND {_UNCLAIMED}", "queue")],
    "deliver": [DueRows("deliveries", "state = 'waiting' AND next_at <= now()", "next_at")],
    "fire": [DueRows("schedules", "active AND fires_at <= now()", "fires_at")],
    "fire_events": [DueRows("firings", "outcome = 'waiting'", "id")],
    "backfill": [DueRows("backfills", "state = 'running'", "id")],
    "fold": [DueRows("backlog_changes", "true", "id"), DueRows("tally_changes", "true", "id")],
    "expire": [DueRows("runs", "state = 'running' AND deadline_at <= now()", "deadline_at")],
}
_ANY = (f"{' OR '.join(rows.exist for rows in some)} AS {name}" for name, some in _ROWS.items())
# Which sweeps have any: one row with a column for each. Needs `:unclaimed`.
DUE_QUERY = f"SELECT {', '.join(_ANY)}"
