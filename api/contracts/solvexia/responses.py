"""What SolveXia answers, field by field, with its four ways to write a date."""

from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import PurePath
from typing import Any

from flask import url_for
from marshmallow import fields, validate

from api.contracts.solvexia import vocabulary
from api.contracts.solvexia.mapping import NOBODY, StatusView, run_name, user_name
from api.contracts.solvexia.vocabulary import NOT_STARTED, STATES, STEP_STATES, WARNING
from api.toolkit.wire import CamelCase, WireSchema, computed, constant, described, optional
from orchestrator.models import Artifact
from orchestrator.states import StepState


class _Date(fields.Field[datetime]):
    """A time in UTC; `form` makes the text from that with microseconds and no zone."""

    def __init__(
        self, form: Callable[[str], str], format_: str = "date-time", **options: Any
    ) -> None:
        super().__init__(metadata={"type": "string", "format": format_}, **options)
        self._form = form

    def _serialize(self, value: Any, *_: Any, **__: Any) -> str:
        moment: datetime = value.astimezone(UTC).replace(tzinfo=None)
        return self._form(moment.isoformat(timespec="microseconds"))


# Seven digits of a second and no zone: `2020-06-15T02:24:14.2700000`.
_entity_date = partial(_Date, "{}0".format, "date-time-local")
# Seven digits of a second and the zone: `2025-02-20T14:44:00.6578787+00:00`.
_log_date = partial(_Date, "{}0+00:00".format)
# Milliseconds and no zone: `2025-02-05T22:40:19.923`.
_run_date = partial(_Date, lambda text: text[:-3], "date-time-local", allow_none=True)
# As many digits of milliseconds as it needs, and Z: `2025-01-13T03:51:03.27Z`.
_step_date = partial(_Date, lambda text: f"{text[:-3].rstrip('0').rstrip('.')}Z", allow_none=True)


_RUNNING_MESSAGE = "step is currently running"  # as published; of one that says nothing itself


def _seconds(view: StatusView) -> int | None:
    if view.started_at is None:
        return 0 if view.row.state == "running" else None
    end = view.row.finished_at or datetime.now(UTC)
    return max(0, int((end - view.started_at).total_seconds()))


_duration = partial(computed, fields.Integer, _seconds, allow_none=True)


def _completion_message(view: StatusView) -> str:
    """The error of a step that ended, else its last message or its first warning."""
    if view.restarts or view.row.state == StepState.RUNNING:
        return view.output.message or _RUNNING_MESSAGE
    if not view.row.finished_at:
        return ""
    if view.row.error:
        return str(view.row.error.get("message") or "")
    warnings = (warning["message"] for warning in view.output.warnings)
    return view.output.message or next(warnings, "")


def _file_url(row: Artifact) -> str:
    return url_for("solvexia.download", file_id=f"f-{row.number}", _external=True)


class ProcessRun(CamelCase, WireSchema):
    """One run of a process."""

    id = computed(fields.String, lambda view: f"pr-{view.run.number}")
    name = computed(fields.String, lambda view: run_name(view.run))
    alert_email_address = computed(
        fields.String,
        lambda view: ", ".join((view.run.notifications or {}).get("mail") or ()),
        "empty when unset",
    )
    alert_sms = constant(fields.String, "", "always empty", data_key="alertSMS")
    description = computed(
        fields.String, lambda view: view.run.description or "", "empty when unset"
    )
    last_modified_by = computed(fields.String, lambda view: user_name(view.run), "who submitted it")
    date_modified = _entity_date()
    date_created = _entity_date(attribute="run.created_at")
    process = described(fields.String, "the id of its process")


class Process(CamelCase, WireSchema):
    """A process: what runs are made from. Who changed a workflow is not kept."""

    id = computed(fields.String, lambda row: f"p-{row.number}")
    name = fields.String()
    alert_email_address = constant(fields.String, "", "empty when unset")
    alert_sms = constant(fields.String, "", "always empty", data_key="alertSMS")
    description = described(fields.String, "empty when unset")
    last_modified_by = constant(fields.String, NOBODY, "who submitted it")
    date_modified = _entity_date(attribute="updated_at")
    date_created = _entity_date(attribute="created_at")
    available_to_subscriber = constant(fields.Boolean, False, "always false")
    runs_available_to_subscriber = constant(fields.Boolean, False, "always false")


class Item(CamelCase, WireSchema):
    """A process or a run in a list."""

    id = fields.String()
    name = fields.String()


class _Status(CamelCase, WireSchema):
    id = fields.String(attribute="wire_id")
    run_duration_in_seconds = _duration("null before it started")
    run_duration_in_sec = _duration("the same once more", dump_only=True)


class RunStatus(_Status):
    """How far a run is; one that failed is `Finished`, and its steps say what failed."""

    date_started = _run_date(attribute="started_at")
    date_finished = _run_date(attribute="row.finished_at")
    status = computed(
        fields.String(validate=validate.OneOf(sorted({NOT_STARTED, *STATES.words}))),
        lambda view: vocabulary.run_status(view.row, restarts=view.restarts),
    )


class StepStatus(_Status):
    """How far a step of a run is."""

    date_started = _step_date(attribute="started_at")
    date_finished = _step_date(attribute="row.finished_at")
    status = computed(
        fields.String(validate=validate.OneOf(sorted({WARNING, *STEP_STATES.words}))),
        lambda view: vocabulary.step_status(view.row, restarts=view.restarts),
    )
    completion_message = computed(fields.String, _completion_message, "empty until it starts")


class DataStep(CamelCase, WireSchema):
    """A step of a process or of a run."""

    is_enabled = fields.Boolean()
    step_order = described(fields.String, "1, and its place from 1 on: `1.2`")
    ordered_name = described(
        fields.String, "the same once more", attribute="step_order", dump_only=True
    )
    id = computed(fields.String, lambda view: f"ds-{view.number}")
    name = fields.String()


class Property(CamelCase, WireSchema):
    """A parameter of a run, as a property of the step that uses it."""

    id = fields.String(attribute="wire_id")
    name = fields.String()
    data_type = fields.String()
    required = fields.Boolean()
    visible = constant(fields.Boolean, True)
    information_flow_type = fields.String(
        attribute="flow", validate=validate.OneOf(["INPUT", "OUTPUT", "NONE"])
    )
    mouseover_text = fields.String(attribute="text")
    value = optional(described(fields.Raw, "of all types but File", allow_none=True))
    file = optional(described(fields.Raw, "of the type File", allow_none=True))
    options = optional(described(fields.List, "of the type Dropdown", cls_or_instance=fields.Raw()))


class File(CamelCase, WireSchema):
    """What is known of a file."""

    id = computed(fields.String, lambda row: f"f-{row.number}")
    name = fields.String()
    size_in_bytes = fields.Integer(attribute="size")
    file_extension = computed(fields.String, lambda row: PurePath(row.name).suffix[1:])
    url = computed(fields.String, _file_url, "where its bytes are")


class Log(CamelCase, WireSchema):
    """Something that happened, as a sentence."""

    id = computed(fields.String, lambda event: str(event.id))
    message = computed(fields.String, vocabulary.log_message)
    user_name = computed(fields.String, user_name)
    time_stamp = _log_date(attribute="occurred_at")


class Refusal(WireSchema):
    """Why a request was refused."""

    message = fields.String(metadata={"description": "for the user"})
    support_id = fields.UUID(data_key="supportId", metadata={"description": "also in the log"})
