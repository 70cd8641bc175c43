"""The bodies and queries of this API, and the core's requests made of them."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any
from uuid import UUID

from marshmallow import ValidationError, fields, post_load, validate, validates_schema

from api.contracts.mindzie import vocabulary
from api.contracts.mindzie.fields import Moment, RequestSchema, Since, Until, Word
from api.contracts.mindzie.vocabulary import DEFAULT_TYPE, JOB_TYPE, JOB_TYPES, PRIORITIES, STATES
from api.toolkit.fields import BoundedDict, boolean, mail_addresses
from api.toolkit.wire import described
from orchestrator.access.authentication import Principal
from orchestrator.models import Run
from orchestrator.runs import NewRun, RetryMode, RetryRequest, RetryTarget, RunFilter

_MAX_MINUTES = 10 * 365 * 24 * 60  # ten years
_DEFAULT_PAGE, MAX_PAGE = 20, 100
_SDK_PAGE = 50  # what the published SDK asks for
MAX_QUEUE = 500  # jobs of a tenant, from the head of its queue
_DEFAULT_LINES, MAX_LINES = 1000, 10_000
_TIMEOUT = "timeoutMinutes"
# Published besides as what a retry may change: without effect here, unless a workflow takes them.
_HINTS = ("retryFailedRecords", "increaseMemoryLimit")
_MINUTES = fields.Integer(strict=True, validate=validate.Range(1, _MAX_MINUTES), allow_none=True)
_OTHER_TYPES = RunFilter(
    either=[RunFilter(annotations={JOB_TYPE: each}) for each in JOB_TYPES if each != DEFAULT_TYPE]
)
_EVENTS: Mapping[str, list[str]] = {
    "on_completion": ["run.succeeded"],
    "on_failure": ["run.failed", "run.timed_out"],
}


def _rows(maximum: int, default: int) -> fields.Integer:
    """How many rows; a larger number than the maximum counts as the maximum."""
    options = {"load_default": default, "validate": validate.Range(min=1)}
    return described(fields.Integer, f"at most {maximum}", **options)


def _page_number() -> fields.Integer:
    return fields.Integer(load_default=1, validate=validate.Range(1, 2**31 - 1))


class ResourceBody(RequestSchema):
    """What the job works with: a workflow of the project, by id or name."""

    resource_type = fields.String(required=True, validate=validate.Length(1, 100))
    resource_id = fields.String(required=True, validate=validate.Length(1, 100))


class SchedulingBody(RequestSchema):
    """When the job starts, and how long it may run; the time in the queue does not count."""

    execute_immediately = boolean(load_default=True)
    scheduled_time = Moment("needs executeImmediately: false", load_default=None, allow_none=True)
    timeout_minutes = _MINUTES

    @validates_schema
    def _check_time(self, data: dict[str, Any], **_: Any) -> None:
        later, at = not data["execute_immediately"], data["scheduled_time"]
        if later and at is None:
            message = "give the time when the job is not to start immediately"
            raise ValidationError(message, "scheduledTime")
        if at is not None and not later:
            raise ValidationError("it needs executeImmediately: false", "scheduledTime")


class NotificationsBody(RequestSchema):
    """Who gets mail about the end of the job."""

    on_completion = boolean(load_default=False)
    on_failure = boolean(load_default=False)
    # Published clients always send some: without a mail server the job gets a warning instead.
    email_recipients = mail_addresses(needs_server=False)


class JobBody(RequestSchema):
    job_name = fields.String(
        required=True,
        validate=[validate.Length(1, 200), validate.Regexp(r"\s*\S", error="blank")],
    )
    job_description = fields.String(validate=validate.Length(max=10_000), allow_none=True)
    job_type = Word(JOB_TYPES, required=True)
    priority = Word(PRIORITIES, load_default="Normal", allow_none=True)
    resource = fields.Nested(ResourceBody, required=True)
    parameters = BoundedDict(keys=fields.String(), load_default=dict, allow_none=True)
    scheduling = fields.Nested(SchedulingBody, allow_none=True)
    notifications = fields.Nested(NotificationsBody, allow_none=True)


class CancelBody(RequestSchema):
    reason = fields.String(validate=validate.Length(max=1000), allow_none=True)
    force_termination = boolean("kill at once", load_default=False)
    preserve_partial_results = boolean("show what it left", load_default=True)


class RetryBody(RequestSchema):
    """How to run a failed job again; it enters the queue at once, whatever is said of that."""

    retry_reason = fields.String(validate=validate.Length(max=1000), allow_none=True)
    modify_parameters = boolean(load_default=False)
    updated_parameters = BoundedDict(
        keys=fields.String(),
        load_default=dict,
        allow_none=True,
        metadata={
            "description": f"go over the parameters; {_TIMEOUT} over the timeout. "
            f"A workflow without the parameters {' and '.join(_HINTS)} ignores them"
        },
    )
    priority = Word(PRIORITIES, load_default=None, allow_none=True)
    immediate_execution = boolean(load_default=True)

    @post_load
    def _split_timeout(self, data: dict[str, Any], **_: Any) -> dict[str, Any]:
        """Take the timeout out of the parameters that change."""
        changed = dict(data["updated_parameters"] or {}) if data["modify_parameters"] else {}
        try:
            minutes = _MINUTES.deserialize(changed.pop(_TIMEOUT, None))
        except ValidationError as error:
            raise ValidationError({"updatedParameters": {_TIMEOUT: error.messages}}) from None
        return {**data, "updated_parameters": changed, "timeout": _timeout(minutes)}


class JobsQuery(RequestSchema):
    status = Word(STATES.words)
    job_type = Word(JOB_TYPES)
    priority = Word(PRIORITIES)
    submitted_by = fields.String()
    date_from = Since("created then or later")
    date_to = Until("created then or earlier")
    page = _page_number()
    page_size = _rows(MAX_PAGE, _DEFAULT_PAGE)


class ResultsQuery(RequestSchema):
    format = Word(("summary", "detailed", "download"), load_default="summary")
    include_artifacts = fields.Boolean(load_default=True)
    output_type = Word(vocabulary.OUTPUT_FILTERS)


class QueueQuery(RequestSchema):
    priority = Word(PRIORITIES)
    job_type = Word(JOB_TYPES)
    include_estimates = fields.Boolean(load_default=True)
    page = _page_number()
    page_size = _rows(MAX_QUEUE, MAX_QUEUE)


class HistoryQuery(RequestSchema):
    page = _page_number()
    page_size = _rows(MAX_PAGE, _SDK_PAGE)


class LogsQuery(RequestSchema):
    """Which lines of the log; a level means this one and above."""

    level = Word(vocabulary.LEVELS, load_default="INFO")
    from_time = Moment()
    to_time = Until()
    limit = _rows(MAX_LINES, _DEFAULT_LINES)
    format = Word(("structured", "raw"), load_default="structured")


def new_run(body: Mapping[str, Any], workflow: str, who: Principal) -> NewRun:
    """The core's request for a job."""
    scheduling = body.get("scheduling") or {}
    return NewRun(
        workflow=workflow,
        params=body["parameters"] or {},
        priority=vocabulary.RANKS[body["priority"] or "Normal"],
        run_at=scheduling.get("scheduled_time"),
        timeout=_timeout(scheduling.get("timeout_minutes")),
        source_type="key",
        source_id=str(who.key_id),
        submitted_by=who.submitter,
        name=body["job_name"],
        description=body.get("job_description"),
        annotations={
            JOB_TYPE: body["job_type"],
            vocabulary.RESOURCE_TYPE: body["resource"]["resource_type"],
        },
        notifications=_notifications(body.get("notifications") or {}),
    )


def queued_as(job_type: str, resource_type: str, resource_id: UUID) -> dict[str, Any]:
    """The body of a job of which only the resource is known."""
    resource = {"resource_type": resource_type, "resource_id": str(resource_id)}
    return {
        "job_name": None, "job_type": job_type, "resource": resource, "parameters": None,
        "priority": None,
    }  # fmt: skip


def rerun(
    body: Mapping[str, Any], old: Run, schema: Mapping[str, Any], who: Principal
) -> RetryRequest:
    """The core's request for a retry; `schema` is that of the workflow's parameters."""
    priority = body["priority"]
    left_out = () if schema.get("additionalProperties", True) else _HINTS
    known = schema.get("properties", {})
    changed = {
        name: value
        for name, value in body["updated_parameters"].items()
        if name not in left_out or name in known
    }
    return RetryRequest(
        mode=RetryMode.FULL,
        where=RetryTarget.NEW,
        params={**old.params, **changed} if changed else None,
        priority=vocabulary.RANKS[priority] if priority else None,
        timeout=body["timeout"],
        reason=body.get("retry_reason"),
        submitted_by=who.submitter,
    )


def run_filter(query: Mapping[str, Any], project_id: UUID) -> RunFilter:
    """The core's filter for a query."""
    job_type, who = query.get("job_type"), query.get("submitted_by")
    default = job_type == DEFAULT_TYPE  # includes runs submitted elsewhere
    return RunFilter(
        project_id=project_id,
        state=STATES.states(query["status"]) if "status" in query else (),
        priority=PRIORITIES[query["priority"]] if "priority" in query else (),
        submitted_by=[who, None] if who == vocabulary.SYSTEM else [who] if who else (),
        annotations={JOB_TYPE: job_type} if job_type and not default else None,
        but=_OTHER_TYPES if default else None,
        created_after=query.get("date_from"),
        created_before=query.get("date_to"),
    )


def _timeout(minutes: int | None) -> timedelta | None:
    return None if minutes is None else timedelta(minutes=minutes)


def _notifications(body: Mapping[str, Any]) -> dict[str, Any] | None:
    events = [event for name in _EVENTS if body.get(name) for event in _EVENTS[name]]
    mail = body.get("email_recipients")
    return {"events": events, "mail": mail} if events and mail else None
