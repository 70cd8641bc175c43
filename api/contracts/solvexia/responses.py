"""What SolveXia shows, member by member, with its four ways to write a date."""

from datetime import UTC, datetime
from typing import Any

from marshmallow import Schema, fields, validate

from api.contracts.solvexia.mapping import NOT_STARTED, STATES, STEP_STATES, WARNING
from api.toolkit.fields import ResponseSchema

_RUN_STATUSES = sorted({NOT_STARTED, *STATES.values()})
_STEP_STATUSES = sorted({WARNING, *STEP_STATES.values()})


class EntityDate(fields.Field[datetime]):
    """UTC with seven digits of a second and no zone: `2020-06-15T02:24:14.2700000`."""

    def _serialize(self, value: Any, *_: Any, **__: Any) -> str:
        return f"{_naive(value).isoformat(timespec='microseconds')}0"


class RunDate(fields.Field[datetime]):
    """UTC with milliseconds and no zone: `2025-02-05T22:40:19.923`."""

    def _serialize(self, value: Any, *_: Any, **__: Any) -> str:
        return _naive(value).isoformat(timespec="milliseconds")


class StepDate(fields.Field[datetime]):
    """UTC with as many digits of a second as it needs, and Z: `2025-01-13T03:51:03.27Z`."""

    def _serialize(self, value: Any, *_: Any, **__: Any) -> str:
        text = _naive(value).isoformat(timespec="milliseconds")
        return f"{text.rstrip('0').rstrip('.')}Z"


class LogDate(fields.Field[datetime]):
    """Seven digits of a second and the zone, which is UTC: `2025-02-20T14:44:00.6578787+00:00`."""

    def _serialize(self, value: Any, *_: Any, **__: Any) -> str:
        return f"{_naive(value).isoformat(timespec='microseconds')}0+00:00"


class Asked(Schema):
    """What a request brings."""

    error_messages = {"type": "send a JSON object"}  # noqa: RUF012 - marshmallow's own way


class _Camel(Schema):
    """Members are written as they are in JavaScript."""

    def on_bind_field(self, field_name: str, field_obj: fields.Field[Any]) -> None:
        if field_obj.data_key is None:
            first, *others = field_name.split("_")
            field_obj.data_key = first + "".join(each.title() for each in others)


class _Entity(_Camel, ResponseSchema):
    """What a process and its runs have in common."""

    id = fields.String()
    name = fields.String()
    alert_email_address = fields.String(metadata={"description": "empty when unset"})
    alert_sms = fields.String(data_key="alertSMS", metadata={"description": "always empty"})
    description = fields.String(metadata={"description": "empty when unset"})
    last_modified_by = fields.String(metadata={"description": "who submitted it"})
    date_modified = EntityDate()
    date_created = EntityDate()


class ProcessRunShown(_Entity):
    """One run of a process."""

    process = fields.String(metadata={"description": "the id of its process"})


class ProcessShown(_Entity):
    """A process: what runs are made from."""

    available_to_subscriber = fields.Boolean(metadata={"description": "always false"})
    runs_available_to_subscriber = fields.Boolean(metadata={"description": "always false"})


class Listed(_Camel, ResponseSchema):
    """A process or a run in a list."""

    id = fields.String()
    name = fields.String()


class _StatusShown(_Camel, ResponseSchema):
    id = fields.String()
    run_duration_in_seconds = fields.Integer(
        allow_none=True, metadata={"description": "null before it started"}
    )
    run_duration_in_sec = fields.Integer(
        attribute="run_duration_in_seconds",
        dump_only=True,
        allow_none=True,
        metadata={"description": "the same once more"},
    )


class RunStatusShown(_StatusShown):
    """How far a run is; one that failed is `Finished`, and its steps say what failed."""

    date_started = RunDate(allow_none=True)
    date_finished = RunDate(allow_none=True)
    status = fields.String(validate=validate.OneOf(_RUN_STATUSES))


class StepStatusShown(_StatusShown):
    """How far a step of a run is."""

    date_started = StepDate(allow_none=True)
    date_finished = StepDate(allow_none=True)
    status = fields.String(validate=validate.OneOf(_STEP_STATUSES))
    completion_message = fields.String(metadata={"description": "empty until it has ended"})


class DataStepShown(_Camel, ResponseSchema):
    """A step of a process or of a run."""

    is_enabled = fields.Boolean()
    step_order = fields.String(metadata={"description": "1, and its place from 1 on: `1.2`"})
    ordered_name = fields.String(
        attribute="step_order", dump_only=True, metadata={"description": "the same once more"}
    )
    id = fields.String()
    name = fields.String()


class PropertyShown(_Camel):
    """A parameter of a run, as a property of the step that uses it."""

    id = fields.String()
    name = fields.String()
    data_type = fields.String()
    required = fields.Boolean()
    visible = fields.Boolean()
    information_flow_type = fields.String(validate=validate.OneOf(["INPUT", "OUTPUT", "NONE"]))
    mouseover_text = fields.String()
    value = fields.Raw(allow_none=True, metadata={"description": "of all types but File"})
    file = fields.Raw(allow_none=True, metadata={"description": "of the type File"})
    options = fields.List(fields.Raw(), metadata={"description": "of the type Dropdown"})


class FileShown(_Camel, ResponseSchema):
    """What is known of a file."""

    id = fields.String()
    name = fields.String()
    size_in_bytes = fields.Integer()
    file_extension = fields.String()
    url = fields.String(metadata={"description": "where its bytes are"})


class LogShown(_Camel, ResponseSchema):
    """Something that happened, as a sentence."""

    id = fields.String()
    message = fields.String()
    user_name = fields.String()
    time_stamp = LogDate()


class Refusal(Schema):
    """Why a request was refused."""

    message = fields.String(metadata={"description": "for the user"})
    support_id = fields.UUID(data_key="supportId", metadata={"description": "also in the log"})


def _naive(moment: datetime) -> datetime:
    return moment.astimezone(UTC).replace(tzinfo=None)
