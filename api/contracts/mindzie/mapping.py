"""Views that responses are read from, and the values computed from them."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any, NamedTuple

from marshmallow import missing

from api.contracts.mindzie import formatting
from api.contracts.mindzie.vocabulary import STATES, level_of, priority_of
from api.toolkit.context import settings
from api.toolkit.wire import camel
from config.settings import PREFIX
from orchestrator.models import Artifact, LogLine, Run
from orchestrator.monitoring.status import SystemStatus, WaitEstimate
from orchestrator.outputs.summaries import RunOutput
from orchestrator.states import FINAL_RUNS, RunState

# The columns that a job of a list is read from.
RUN_COLUMNS = (
    "id", "annotations", "name", "workflow", "state", "priority", "started_at", "finished_at",
    "submitted_by", "retry_of", "version_id",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class JobView:
    """A run with what a response needs besides; the rest has defaults."""

    run: Run
    output: RunOutput = field(default_factory=RunOutput)
    updated_at: datetime | None = None
    failed_stage: str | None = None  # name of the step that failed the run
    waiting: WaitEstimate | None = None
    typical_seconds: float | None = None  # of runs of the workflow
    attempt: int | None = None  # 2 for the first retry
    with_estimates: bool = True
    title: str | None = None  # of the workflow

    @property
    def resource_name(self) -> str:
        """The display name of the workflow, else its name."""
        return self.title or self.run.workflow

    @property
    def seconds(self) -> float:
        """How long it took, or has taken so far."""
        if self.run.started_at is None:
            return 0.0
        end: datetime = self.run.finished_at or datetime.now(UTC)
        return (end - self.run.started_at).total_seconds()

    @property
    def duration(self) -> str:
        return formatting.duration(self.seconds)

    @property
    def has_ended(self) -> bool:
        return self.run.state in FINAL_RUNS

    @property
    def has_failed(self) -> bool:
        return STATES[self.run.state] == "Failed"

    @property
    def current_stage(self) -> str:
        """The stage that a handler reported, else the status."""
        if self.run.state == RunState.CANCELLING:
            return "Cancelling"
        if self.run.state == RunState.RUNNING:
            return self.output.stage or "Running"
        return STATES[self.run.state]

    @property
    def estimated_completion(self) -> datetime | None:
        return self.output.eta if self.run.state == RunState.RUNNING else None

    @property
    def estimated_start_time(self) -> Any:
        """The actual or estimated start; None if unknown."""
        if not self.with_estimates:
            return missing
        if self.waiting:
            return self.waiting.estimated_start_at
        return self.run.started_at or self.run.run_at

    @property
    def estimated_duration(self) -> Any:
        return formatting.between(self.typical_seconds) if self.with_estimates else missing

    @property
    def error_code(self) -> str:
        if self.run.state == RunState.TIMED_OUT:
            return "timeout"
        return "step_failed" if (self.run.error or {}).get("step") else "failed"

    @property
    def error_message(self) -> str:
        late = self.run.state == RunState.TIMED_OUT
        default = "the job ran longer than its timeout" if late else "the job failed"
        return (self.run.error or {}).get("message") or default

    @property
    def unsent_mail(self) -> list[dict[str, Any]]:
        """The warning that a job names recipients, but no mail server is configured."""
        if settings().smtp_url or not (self.run.notifications or {}).get("mail"):
            return []
        message = f"no mail is sent about this job: {PREFIX}SMTP_URL is not set"
        return [{"type": "notifications", "message": message, "count": 1}]

    @property
    def memory_usage(self) -> str | None:
        peak = self.output.usage.get("peak_memory_bytes")
        return None if peak is None else formatting.size(peak)

    @property
    def cpu_usage(self) -> str | None:
        seconds = self.output.usage.get("cpu_seconds")
        return None if seconds is None or not self.seconds else f"{seconds / self.seconds:.0%}"

    @property
    def disk_usage(self) -> str | None:
        usage = self.output.usage
        if "read_bytes" not in usage:
            return None
        return formatting.size(usage["read_bytes"] + usage.get("write_bytes", 0))

    def metric(self, name: str) -> float | None:
        """A number that handlers reported, named as in this API or in Python."""
        metrics = self.output.metrics
        return metrics.get(camel(name), metrics.get(name))

    def count(self, name: str, default: float = 0) -> int:
        """A metric as a whole number of at least 0."""
        value = self.metric(name)
        return max(0, int(default if value is None else value))

    @property
    def total_records(self) -> int:
        return max(self.count("records_processed"), self.count("total_records"))

    @property
    def invalid_records(self) -> int:
        return self.count("invalid_records", self.count("error_count"))

    @property
    def valid_records(self) -> int:
        others = self.invalid_records + self.count("duplicates_removed")
        return self.count("valid_records", self.total_records - others)

    @property
    def data_quality_score(self) -> float:
        """0 to 100: as reported, else the share of valid records."""
        total = self.total_records
        return self._score("data_quality_score", self.valid_records / total if total else 1.0)

    @property
    def processing_efficiency(self) -> float:
        """0 to 100: as reported, else the share of its time that a CPU worked."""
        busy = self.output.usage.get("cpu_seconds", 0)
        return self._score("processing_efficiency", busy / self.seconds if self.seconds else 0.0)

    def _score(self, metric: str, share: float) -> float:
        score = self.metric(metric)
        return float(round(min(1.0, share) * 100, 1) if score is None else score)


class OutputView(NamedTuple):
    row: Artifact
    url: str | None


@dataclass(frozen=True, kw_only=True)
class ResultsView(JobView):
    """A run that has ended, with its outputs."""

    outputs: Sequence[OutputView]  # after the filter
    output_count: int  # before the filter
    detailed: bool
    report: OutputView | None = None  # of a job that completed without any file

    @property
    def primary(self) -> OutputView | None:
        """The first primary output, else the first one; None unless the run succeeded."""
        outputs = self.outputs if self.run.state == RunState.SUCCEEDED else ()
        return max(outputs, key=lambda output: output.row.primary, default=self.report)


class LogEntryView(NamedTuple):
    """A log line with the name of its step."""

    line: LogLine
    stage: str

    @property
    def level(self) -> str:
        return level_of(self.line.level)


class LogsView(NamedTuple):
    run: Run
    entries: Sequence[LogEntryView]
    truncated: bool


@dataclass(frozen=True)
class QueueView:
    """The state of the system, and the first jobs in the queue."""

    system: SystemStatus
    jobs: Sequence[JobView]

    @property
    def active(self) -> list[SimpleNamespace]:
        """The workers that take new steps."""
        return [node for node in self.system.nodes if node.status == "active"]

    @property
    def capacity(self) -> int:
        return sum(node.capacity for node in self.active)

    @property
    def running(self) -> int:
        return sum(node.active for node in self.active)


def format_of(row: Artifact) -> str:
    """The suffix of a file's name, else the subtype of its media type."""
    stem, _, suffix = row.name.rpartition(".")
    return (suffix if stem else row.media_type.rpartition("/")[2]).lower()


def accuracy_of(row: Artifact) -> float | None:
    """The accuracy that a handler saved with a file, if it is a number."""
    accuracy = row.extra.get("accuracy")
    if isinstance(accuracy, bool) or not isinstance(accuracy, int | float):
        return None
    return float(accuracy)


def memory_percent(node: SimpleNamespace) -> int:
    """The used share of a host's memory."""
    total = node.usage.get("memory_total", 0)
    return round(100 * node.usage.get("memory_used", 0) / total) if total else 0


def queued_jobs(system: SystemStatus, *priorities: str) -> int:
    """How many jobs have not begun, in total or of these priorities."""
    # This API calls a job queued until a worker claims it, whatever it waits for.
    return sum(
        runs
        for name in ("by_priority", "admitted_by_priority", "not_due_by_priority")
        for rank, runs in system.queues[name].items()
        if not priorities or priority_of(rank) in priorities
    )


def drain_seconds(system: SystemStatus) -> float | None:
    """Until all jobs are done; None when nothing can tell, as while some are held."""
    seconds: float | None = system.queues["estimated_drain_seconds"]
    return seconds or (None if queued_jobs(system) else seconds)


def success_percent(system: SystemStatus) -> float:
    """The share of the runs that ended today and succeeded; 100 if none ended."""
    rate = system.runs["success_rate"]
    return 100.0 if rate is None else round(rate * 100, 1)
