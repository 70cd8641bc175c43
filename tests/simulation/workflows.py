"""The workflows of the simulation, small and of different shapes."""

from sqlalchemy import Engine

from orchestrator import workflows
from orchestrator.db.database import Database
from tests.support.factories import a_tenant

_RETRY = {"attempts": 3, "delay": "2s", "backoff": 2.0}
_CHOOSY = {"attempts": 2, "delay": "1s", "on": ["ValueError"]}


def _step(key: str, **more: object) -> dict[str, object]:
    return {"key": key, "uses": "noop", **more}


WORKFLOWS = (
    {"name": "one", "steps": [_step("a", retry=_RETRY)]},
    {"name": "chain", "steps": [_step("a"), _step("b", retry=_CHOOSY), _step("c")]},
    {
        "name": "diamond",
        "steps": [
            _step("a"),
            _step("b", needs=["a"], retry=_RETRY),
            _step("c", needs=["a"]),
            _step("d", needs=["b", "c"]),
        ],
    },
    {
        "name": "lenient",
        "steps": [
            _step("a", needs=[], allow_failure=True),
            _step("b", needs=[], when="params.go"),
            _step("c", needs=["a", "b"]),
        ],
    },
    {
        "name": "timed",
        "timeout": "20s",
        "steps": [_step("a", timeout="4s", retry=_CHOOSY | {"on": []}), _step("b")],
    },
    {"name": "wide", "steps": [_step("a", needs=[]), _step("b", needs=[]), _step("c", needs=[])]},
)


def register(engine: Engine) -> None:
    """Register all of them; idempotent."""
    with Database(engine, lambda _: None).transaction() as session:
        tenant_id = a_tenant(session)
        for workflow in WORKFLOWS:
            workflows.register(session, tenant_id, dict(workflow))
