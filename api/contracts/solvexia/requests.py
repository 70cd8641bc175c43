"""The queries and bodies of SolveXia's API."""

from marshmallow import Schema, fields, validate

from api.toolkit.fields import Timestamp

START, CANCEL = "ProcessRun_StartRq", "ProcessRun_CancelRq"
_WRONG = ("required", "null", "invalid")


class _Body(Schema):
    error_messages = {"type": "send a JSON object"}  # noqa: RUF012 - marshmallow's own way


class LogQuery(Schema):
    """When it happened: from one instant to another."""

    since = Timestamp(data_key="startDate")
    until = Timestamp(data_key="endDate")


class CreatedQuery(Schema):
    """When it was created: after one instant, before another."""

    created_after = Timestamp(data_key="dateCreatedStart")
    created_before = Timestamp(data_key="dateCreatedEnd")


class ProcessQuery(CreatedQuery):
    """The same, and a part of the name in either case."""

    name = fields.String()


class NewRun(_Body):
    """The name of a new run."""

    prefix = fields.String(
        data_key="namePrefix",
        allow_none=True,
        validate=validate.Length(max=200),
        metadata={"description": "stands before its generated name"},
    )


class Command(_Body):
    """What to do with a run."""

    request = fields.String(
        required=True,
        validate=validate.OneOf([START, CANCEL]),
        error_messages=dict.fromkeys(_WRONG, f"send {START} or {CANCEL}"),
    )
    run = fields.String(
        required=True,
        data_key="processRunId",
        error_messages=dict.fromkeys(_WRONG, "send the id of a process run, like pr-123"),
    )


class PropertyValue(_Body):
    """A property; only its value can change."""

    value = fields.Raw(allow_none=True)
    file = fields.Raw(allow_none=True)
