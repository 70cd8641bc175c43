"""How it is shown why a run, and each of its steps, does not go on."""

from datetime import datetime
from typing import Any

from marshmallow import fields

from api.schemas import Shown, Timestamp
from orchestrator.causes import Code

_CODES = f"one of {', '.join(Code)}"


class About(fields.Dict):
    """Who and what, by name; times as everywhere."""

    def _serialize(self, value: Any, *_: Any, **__: Any) -> dict[str, Any]:
        return {
            name: Timestamp()._serialize(each) if isinstance(each, datetime) else each
            for name, each in value.items()
        }


class CauseShown(Shown):
    """Why something does not go on, or that it does."""

    code = fields.String(metadata={"description": _CODES})
    text = fields.String()
    about = About(metadata={"description": "who or what it is about, by name"})


class StepCauseShown(Shown):
    """A step, and its cause."""

    key = fields.String()
    state = fields.String()
    cause = fields.Nested(CauseShown)


class ExplainedShown(Shown):
    """A run, its cause, and those of its steps."""

    run_id = fields.UUID()
    state = fields.String()
    cause = fields.Nested(CauseShown)
    steps = fields.List(fields.Nested(StepCauseShown))
