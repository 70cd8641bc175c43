"""The invariants of the core, for all runs: whatever happened before, none is violated."""

from sqlalchemy import Engine

from orchestrator.db.database import Database
from orchestrator.maintenance import checks


def broken(engine: Engine) -> dict[str, list[object]]:
    """The violations, by invariant."""
    with Database(engine, lambda _: None).transaction() as session:
        findings = checks.check_all_runs(session).findings
    violations: dict[str, list[object]] = {}
    for each in findings:
        violations.setdefault(each.broken, []).append(tuple(each[1:]))
    return violations
