"""Compile conditions to SQL: the core's fields, and the expression of each test.

Every text of a user becomes a bound parameter, and fields are looked up by name.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property, reduce
from operator import add
from typing import Any
from uuid import UUID

from sqlalchemy import (
    String,
    Uuid,
    and_,
    case,
    exists,
    false,
    func,
    literal,
    or_,
    select,
    text,
    true,
)
from sqlalchemy.dialects.postgresql.base import PGDialect

from orchestrator.models import Backfill, Event, LogLine, Output, Run, Schedule, Step, Workflow
from orchestrator.search.conditions import (
    ALWAYS,
    And,
    AnyStep,
    Choice,
    Compare,
    Condition,
    DateOf,
    Field,
    InValues,
    Match,
    Not,
    Or,
    Path,
    Present,
    Value,
)

Fields = Mapping[str, Any]
_ID = re.compile("[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")  # in its canonical form

_LATEST_OUTPUT = and_(Output.step_id == Step.id, Output.attempt == Step.attempt)
_STEP_MESSAGE = select(func.coalesce(Output.message, Output.stage)).where(_LATEST_OUTPUT)
# The message of the first running step.
_RUN_MESSAGE = (
    select(func.coalesce(Output.message, Output.stage, Step.name))
    .select_from(Step)
    .outerjoin(Output, _LATEST_OUTPUT)
    .where(Step.run_id == Run.id, Step.state == "running")
    .order_by(Step.position)
    .limit(1)
)
_STEPS = select(func.count()).select_from(Step).where(Step.run_id == Run.id)
_LAST_EVENT = select(Event.occurred_at).where(Event.run_id == Run.id, Event.seq == Run.event_seq)
_SERVICE = select(Workflow.service).where(Workflow.id == Run.workflow_id)
_TITLE = select(Workflow.title).where(Workflow.id == Run.workflow_id)
# What the last step says that loads: one that has written data, or is called so.
_LOADS = or_(func.lower(Step.key) == "load", text("outputs.data <> '{}'"))


def _of_loader(value: Any) -> Any:
    """A value of that step, NULL without one."""
    steps = select(value).select_from(Step).outerjoin(Output, _LATEST_OUTPUT)
    steps = steps.where(Step.run_id == Run.id, Step.started_at.is_not(None), _LOADS)
    return steps.order_by(Step.position.desc()).limit(1).correlate(Run).scalar_subquery()


def _of_schedule(column: Any) -> Any:
    return select(column).where(Schedule.id == Run.schedule_id).correlate(Run).scalar_subquery()


RUN_FIELDS: Fields = {
    "id": Run.id,
    "workflow": Run.workflow,
    "title": func.coalesce(_TITLE.correlate(Run).scalar_subquery(), Run.workflow),
    "service": func.nullif(_SERVICE.correlate(Run).scalar_subquery(), ""),
    "environment": Run.environment,
    "trigger": Run.trigger,
    "reason": Run.reason,
    "submitted_by": Run.submitted_by,
    "run_as": Run.run_as,
    "description": Run.description,
    "state": Run.state,
    "held": Run.held,
    "warnings": Run.warnings,
    "error_step": Run.error["step"].as_string(),
    "error_message": Run.error["message"].as_string(),
    "cancel_reason": Run.cancel_reason,
    "saying": _RUN_MESSAGE.correlate(Run).scalar_subquery(),
    "loader_key": _of_loader(Step.key),
    "loader_state": _of_loader(Step.state),
    "loader_message": _of_loader(func.coalesce(Step.error["message"].as_string(), Output.message)),
    "started_at": Run.started_at,
    "finished_at": Run.finished_at,
    "logical_date": Run.logical_date,
    "retry_of": Run.retry_of,
    "number": Run.number,
    "created_at": Run.created_at,
    "changed_at": _LAST_EVENT.correlate(Run).scalar_subquery(),
    "instant": func.coalesce(Run.logical_date, Run.created_at),
    "passed_sla": Run.passed_sla,
    "schedule_number": _of_schedule(Schedule.number),
    "schedule_name": _of_schedule(Schedule.name),
    "schedule_type": _of_schedule(Schedule.type),
    "backfill_number": select(Backfill.number)
    .where(Backfill.id == Run.backfill_id)
    .correlate(Run)
    .scalar_subquery(),
    "steps": _STEPS.correlate(Run).scalar_subquery(),
    "succeeded_steps": _STEPS.where(Step.state == "succeeded").correlate(Run).scalar_subquery(),
}
STEP_FIELDS: Fields = {
    "key": Step.key,
    "state": Step.state,
    "attempt": Step.attempt,
    "forgiven": Step.forgiven,
    "error_message": Step.error["message"].as_string(),
    "saying": _STEP_MESSAGE.correlate(Step).scalar_subquery(),
    "started_at": Step.started_at,
    "finished_at": Step.finished_at,
}
_KIND = func.jsonb_each(Output.data).table_valued("key", "value", name="kind")
_DAY = func.jsonb_each(_KIND.c.value).table_valued("key", "value", name="day")
_ENTRY = func.jsonb_array_elements_text(_DAY.c.value).table_valued("value", name="entry")
_DATA_FIELDS: Fields = {"kind": _KIND.c.key, "day": _DAY.c.key, "id": _ENTRY.c.value}
_DATA = (
    select(1)
    .select_from(Output)
    .join(Step, _LATEST_OUTPUT)
    .join(_KIND, true())
    .join(_DAY, true())
    .join(_ENTRY, true())
    .where(Output.run_id == Run.id)
)
_PARTS: Mapping[str, tuple[Any, Fields]] = {
    "steps": (select(1).select_from(Step).where(Step.run_id == Run.id), STEP_FIELDS),
    "lines": (
        select(1).select_from(LogLine).where(LogLine.run_id == Run.id),
        {"text": LogLine.text},
    ),
    "written": (_DATA, _DATA_FIELDS),
}


def compile_condition(condition: Condition, known: Fields) -> Any:
    """The SQL expression of a condition over these fields."""
    match condition:
        case And(parts):
            return and_(true(), *(compile_condition(part, known) for part in parts))
        case Or(parts):
            return or_(false(), *(compile_condition(part, known) for part in parts))
        case Not(part):
            return compile_condition(part, known).is_not(True)
        case AnyStep(of, inner):
            statement, fields = _PARTS[of]
            return exists(statement.where(compile_condition(inner, fields)).correlate(Run))
        case _:
            return _test(condition, known)


def _test(condition: InValues | Compare | Match | Present, known: Fields) -> Any:
    match condition:
        case InValues(value, operands):
            column = compile_field(value, known)
            if isinstance(column.type, Uuid):
                operands = tuple(UUID(each) for each in map(str, operands) if _ID.fullmatch(each))
            return column.in_(operands)
        case Compare(value, op, operand):
            return op(_comparable(compile_field(value, known)), operand)
        case Match(value, pattern, ignore_case):
            flags = "i" if ignore_case else None
            return _as_text(compile_field(value, known)).regexp_match(pattern, flags=flags)
        case Present(value):
            return compile_field(value, known).is_not(None)


def compile_field(of: Value, known: Fields) -> Any:
    """The SQL expression of a value."""
    match of:
        case Field(name):
            return known[name]
        case str(constant):
            return literal(constant)
        case Path(parts):
            return reduce(add, (_as_text(compile_field(part, known)) for part in parts))
        case DateOf(field, format):
            return func.to_char(func.timezone("UTC", known[field.name]), format)
        case Choice(branches):
            return case(
                *(
                    (compile_condition(when, known), _as_text(compile_field(each, known)))
                    for when, each in branches
                )
            )


@dataclass(frozen=True, eq=False)
class FieldSelection:
    """Values by name, and the runs or steps to read them of."""

    values: Mapping[str, Value]
    which: Condition = ALWAYS
    of_steps: bool = False

    @cached_property
    def statement(self) -> str:
        """The statement with `:ids`, which are of runs.

        The first column is the run's place among the ids, from 1 on, and the order; steps are in
        the workflow's order, too. Ids are texts.
        """
        ids: Any = func.unnest(text(r"CAST(\:ids AS uuid[])"))
        listed = ids.table_valued("id", with_ordinality="place", name="listed").render_derived()
        source, known = (Step.run_id, STEP_FIELDS) if self.of_steps else (Run.id, RUN_FIELDS)
        fields = [compile_field(each, known).label(name) for name, each in self.values.items()]
        columns = [each.cast(String) if isinstance(each.type, Uuid) else each for each in fields]
        statement = (
            select(listed.c.place, *columns)
            .select_from(listed.join(source.class_, source == listed.c.id))
            .where(compile_condition(self.which, known))
            .order_by(listed.c.place, *([Step.position] if self.of_steps else []))
        )
        dialect = PGDialect(paramstyle="named")  # type: ignore[no-untyped-call]
        return str(statement.compile(dialect=dialect, compile_kwargs={"literal_binds": True}))


def _as_text(column: Any) -> Any:
    return column if isinstance(column.type, String) else column.cast(String)


def _comparable(column: Any) -> Any:
    """A column for `<` and `>`: ids are compared as texts, and texts by code points."""
    if column.type.python_type in (datetime, int):
        return column
    return _as_text(column).collate("C")
