"""The tables; importing the package completes the metadata."""

from orchestrator.models import metrics  # only SQL reads its tables
from orchestrator.models.audit import Actor, ActorKind, AuditEntry, AuditHead
from orchestrator.models.base import Base, numbered_or_id
from orchestrator.models.indexes import PLAIN_RUN
from orchestrator.models.notifications import (
    Delivery,
    DeliveryAttempt,
    DeliveryKind,
    DeliveryState,
    Webhook,
)
from orchestrator.models.outputs import Artifact, ArtifactKind, LogLine, Output
from orchestrator.models.runs import (
    Attempt,
    AttemptOutcome,
    Event,
    IdempotencyKey,
    Run,
    RunTag,
    Step,
    Trigger,
)
from orchestrator.models.schedules import (
    Backfill,
    BackfillState,
    Firing,
    FiringOutcome,
    Overlap,
    Schedule,
    ScheduleType,
)
from orchestrator.models.tenants import Key, KeyKind, Project, Role, Tenant
from orchestrator.models.workflows import Queue, QueueUse, Version, Workflow

__all__ = [
    "PLAIN_RUN", "Actor", "ActorKind", "Artifact", "ArtifactKind", "Attempt", "AttemptOutcome",
    "AuditEntry", "AuditHead", "Backfill", "BackfillState", "Base", "Delivery", "DeliveryAttempt",
    "DeliveryKind", "DeliveryState", "Event", "Firing", "FiringOutcome", "IdempotencyKey", "Key",
    "KeyKind", "LogLine", "Output", "Overlap", "Project", "Queue", "QueueUse", "Role", "Run",
    "RunTag", "Schedule", "ScheduleType", "Step", "Tenant", "Trigger", "Version", "Webhook",
    "Workflow", "metrics", "numbered_or_id",
]  # fmt: skip
