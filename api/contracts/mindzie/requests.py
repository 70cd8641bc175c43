"""What this API is asked: bodies and queries."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any
from uuid import UUID

from marshmallow import ValidationError, fields, validate, validates_schema

from api.contracts.mindzie.fields import Camel, Moment, Since, Until, Word
from api.contracts.mindzie.vocabulary import (
    DEFAULT_TYPE,
    JOB_TYPE,
    JOB_TYPES,
    LEVELS,
    OUTPUT_FILTERS,
    PRIORITIES,
    RANKS,
    RESOURCE_TYPE,
    STATUSES,
    SYSTEM,
    states_of,
)
from api.toolkit.fields import boolean, mail_addresses
from orchestrator.access.authentication import Principal
from orchestrator.models import Run
from orchestrator.runs import NewRun, RetryMode, RetryRequest, RetryTarget, RunFilter

_LONGEST = 10 * 365 * 24 * 60  # minutes
_PAGE, _LARGEST_PAGE = 20, 100
_LINES, _MOST_LINES = 1000, 10_000
_TIMEOUT = "timeoutMinutes"
_OF_OTHER_TYPES = RunFilter(
    either=[RunFilter(annotations={JOB_TYPE: each}) for each in JOB_TYPES if each != DEFAULT_TYPE]
)
_TOLD_OF: Mapping[str, list[str]] = {
    "on_completion": ["run.succeeded"],
    "on_failure": ["run.failed", "run.timed_out"],
}


class _Least(fields.Integer):
    """A whole number of at least 1; what is over the most counts as the most."""

    def __init__(self, most: int, **options: Any) -> None:
        self._most = most
        options.setdefault("metadata", {"description": f"at most {most}"})
        super().__init__(validate=validate.Range(min=1), **options)

    def _deserialize(self, *given: Any, **more: Any) -> int:
        return min(super()._deserialize(*given, **more), self._most)


def _minutes() -> fields.Integer:
    return fields.Integer(strict=True, validate=validate.Range(1, _LONGEST), allow_none=True)


class ResourceAsked(Camel):
    """What the job works with: a workflow of the project, by id or name."""

    resource_type = fields.String(required=True, validate=validate.Length(1, 100))
    resource_id = fields.String(required=True, validate=validate.Length(1, 100))


class SchedulingAsked(Camel):
    """When the job starts, and how long it may run; the time in the queue does not count."""

    execute_immediately = boolean(load_default=True)
    scheduled_time = Moment("needs executeImmediately: false", load_default=None, allow_none=True)
    timeout_minutes = _minutes()

    @validates_schema
    def _agrees(self, data: dict[str, Any], **_: Any) -> None:
        later, at = not data["execute_immediately"], data["scheduled_time"]
        if later and at is None:
            told = "give the time when the job is not to start immediately"
            raise ValidationError(told, "scheduledTime")
        if at is not None and not later:
            raise ValidationError("it needs executeImmediately: false", "scheduledTime")


class NotificationsAsked(Camel):
    """Who gets mail about the end of the job."""

    on_completion = boolean(load_default=False)
    on_failure = boolean(load_default=False)
    # Published clients always send some: without a mail server the job runs and has a warning.
    email_recipients = mail_addresses(needs_server=False)


class JobAsked(Camel):
    """A job to submit."""

    job_name = fields.String(
        required=True,
        validate=[validate.Length(1, 200), validate.Regexp(r"\s*\S", error="blank")],
    )
    job_description = fields.String(validate=validate.Length(max=10_000), allow_none=True)
    job_type = Word(JOB_TYPES, required=True)
    priority = Word(PRIORITIES, load_default="Normal", allow_none=True)
    resource = fields.Nested(ResourceAsked, required=True)
    parameters = fields.Dict(keys=fields.String(), load_default=dict, allow_none=True)
    scheduling = fields.Nested(SchedulingAsked, allow_none=True)
    notifications = fields.Nested(NotificationsAsked, allow_none=True)


class CancelAsked(Camel):
    """How to stop a job."""

    reason = fields.String(validate=validate.Length(max=1000), allow_none=True)
    force_termination = boolean("kill at once", load_default=False)
    preserve_partial_results = boolean("show what it left", load_default=True)


class RetryAsked(Camel):
    """How to run a failed job again; it enters the queue at once, whatever is said of that."""

    retry_reason = fields.String(validate=validate.Length(max=1000), allow_none=True)
    modify_parameters = boolean(load_default=False)
    updated_parameters = fields.Dict(
        keys=fields.String(),
        load_default=dict,
        allow_none=True,
        metadata={"description": f"go over the parameters; {_TIMEOUT} over the timeout"},
    )
    priority = Word(PRIORITIES, load_default=None, allow_none=True)
    immediate_execution = boolean(load_default=True)

    @validates_schema
    def _is_right(self, data: dict[str, Any], **_: Any) -> None:
        try:
            _overrides(data)
        except ValidationError as error:
            told = {"updatedParameters": {_TIMEOUT: error.messages}}
            raise ValidationError(told) from None


class JobsAsked(Camel):
    """Which jobs."""

    status = Word(STATUSES)
    job_type = Word(JOB_TYPES)
    priority = Word(PRIORITIES)
    submitted_by = fields.String()
    date_from = Since("created then or later")
    date_to = Until("created then or earlier")
    page = fields.Integer(load_default=1, validate=validate.Range(1, 2**31 - 1))
    page_size = _Least(_LARGEST_PAGE, load_default=_PAGE)


class ResultsAsked(Camel):
    """How much of the results."""

    format = Word(("summary", "detailed", "download"), load_default="summary")
    include_artifacts = fields.Boolean(load_default=True)
    output_type = Word(OUTPUT_FILTERS)


class QueueAsked(Camel):
    """Which of the jobs that wait."""

    priority = Word(PRIORITIES)
    job_type = Word(JOB_TYPES)
    include_estimates = fields.Boolean(load_default=True)


class LogsAsked(Camel):
    """Which lines of the log; a level means this one and above."""

    level = Word(LEVELS, load_default="INFO")
    from_time = Moment()
    to_time = Until()
    limit = _Least(_MOST_LINES, load_default=_LINES)
    format = Word(("structured", "raw"), load_default="structured")


def new_run(body: Mapping[str, Any], workflow: str, who: Principal) -> NewRun:
    """What a job asks for, as the core has it."""
    scheduling = body.get("scheduling") or {}
    return NewRun(
        workflow=workflow,
        params=body["parameters"] or {},
        priority=RANKS[body["priority"] or "Normal"],
        run_at=scheduling.get("scheduled_time"),
        timeout=_timeout(scheduling.get("timeout_minutes")),
        source_type="key",
        source_id=str(who.key_id),
        submitted_by=who.submitter,
        name=body["job_name"],
        description=body.get("job_description"),
        annotations={
            JOB_TYPE: body["job_type"],
            RESOURCE_TYPE: body["resource"]["resource_type"],
        },
        notifications=_notifications(body.get("notifications") or {}),
    )


def rerun(body: Mapping[str, Any], old: Run, who: Principal) -> RetryRequest:
    """What a retry asks for, as the core has it."""
    changed, timeout = _overrides(body)
    priority = body["priority"]
    return RetryRequest(
        mode=RetryMode.FULL,
        where=RetryTarget.NEW,
        params={**old.params, **changed} if changed else None,
        priority=RANKS[priority] if priority else None,
        timeout=timeout,
        reason=body.get("retry_reason"),
        submitted_by=who.submitter,
    )


def run_filter(query: Mapping[str, Any], project_id: UUID) -> RunFilter:
    """Which runs are asked for, as the core has it."""
    job_type, who = query.get("job_type"), query.get("submitted_by")
    default = job_type == DEFAULT_TYPE  # also whatever was not submitted here
    return RunFilter(
        project_id=project_id,
        state=states_of(query["status"]) if "status" in query else (),
        priority=PRIORITIES[query["priority"]] if "priority" in query else (),
        submitted_by=[who, None] if who == SYSTEM else [who] if who else (),
        annotations={JOB_TYPE: job_type} if job_type and not default else None,
        but=_OF_OTHER_TYPES if default else None,
        created_after=query.get("date_from"),
        created_before=query.get("date_to"),
    )


def _overrides(body: Mapping[str, Any]) -> tuple[dict[str, Any], timedelta | None]:
    """The parameters and the timeout that a retry changes. Raises ValidationError."""
    changed = dict(body["updated_parameters"] or {}) if body["modify_parameters"] else {}
    minutes = _minutes().deserialize(changed.pop(_TIMEOUT, None))
    return changed, _timeout(minutes)


def _timeout(minutes: int | None) -> timedelta | None:
    return None if minutes is None else timedelta(minutes=minutes)


def _notifications(asked: Mapping[str, Any]) -> dict[str, Any] | None:
    events = [event for name in _TOLD_OF if asked.get(name) for event in _TOLD_OF[name]]
    mail = asked.get("email_recipients")
    return {"events": events, "mail": mail} if events and mail else None
