"""What must find nothing, whatever happened before: the invariants of the core, for all runs."""

from sqlalchemy import Engine

from orchestrator.db.database import Database
from orchestrator.maintenance import checks, repair

_HEALED = "SELECT run_id, data ->> 'invariant' FROM events WHERE type = %(type)s"


def broken(engine: Engine) -> dict[str, list[object]]:
    """What does not hold, or had to be mended, and where."""
    with Database(engine, lambda _: None).transaction() as session:
        found = checks.check_all_runs(session).findings
        asked = session.connection().exec_driver_sql(_HEALED, {"type": repair.REPAIRED_EVENT})
        healed = [tuple(row) for row in asked]
    wrong: dict[str, list[object]] = {"something had to be healed": healed} if healed else {}
    for each in found:
        wrong.setdefault(each.broken, []).append(tuple(each[1:]))
    return wrong
