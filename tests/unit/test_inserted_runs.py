"""The function that inserts runs takes over a whole request, and follows the tables of states."""

import re
from dataclasses import replace
from uuid import uuid4

from orchestrator.db.schema import FUNCTIONS
from orchestrator.models import Run
from orchestrator.runs import NewRun, submission
from orchestrator.states import RunState, RunTransition, SkipCause, StepState, StepTransition
from orchestrator.workflows import Source

_TEXT = (FUNCTIONS / "insert_runs.sql").read_text(encoding="utf-8")
_SOURCE = Source(
    workflow_id=str(uuid4()),
    project_id=str(uuid4()),
    workflow="work",
    version_id=str(uuid4()),
    version=1,
    spec={},
    steps=1,
)
_MADE_HERE = {"timed_out", "late_at", "state", "queued_at", "event_seq"}


def _columns() -> set[str]:
    """What Python hands to the function."""
    return {*submission.plain_columns(uuid4(), NewRun(workflow="work"), _SOURCE), "due"}


def test_it_inserts_every_column_that_it_gets() -> None:
    (inserted,) = re.findall(r"INSERT INTO runs \(([^)]*)\)", _TEXT)
    (read,) = re.findall(r"AS new\((id uuid, tenant_id uuid, workflow_id[^)]*)\)", _TEXT)
    names = {each.split()[0] for each in read.split(",")}

    assert names == _columns()
    assert {each.strip() for each in inserted.split(",")} == names - {"sla"} | _MADE_HERE
    assert names - {"sla"} <= set(Run.__table__.c.keys())


def test_its_changes_of_state_are_those_of_the_tables() -> None:
    admit, ready = RunTransition.ADMIT, StepTransition.READY

    assert f"CASE WHEN starts THEN '{admit.target}' ELSE '{RunState.PENDING}' END" in _TEXT
    assert admit.sources == {RunState.PENDING}
    assert f"WHEN heads THEN '{ready.target}' ELSE '{StepState.PENDING}' END" in _TEXT
    assert ready.sources == {StepState.PENDING}
    assert f"NOT enabled THEN '{StepState.SKIPPED}'" in _TEXT
    assert f"NOT enabled THEN '{SkipCause.DISABLED}'" in _TEXT
    events = re.findall(r"'((?:run|step)\.\w+)'", _TEXT)
    assert events == ["run.created", admit.event, ready.event]


def test_what_a_version_is_made_of_is_compiled_once() -> None:
    source = replace(_SOURCE, spec={"params": {"required": ["day"]}})

    assert source.check is source.check
    assert source.check_incomplete({}) == {}
