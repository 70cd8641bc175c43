"""The audit log: appended to only, and chained so that every damage is noticed."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from uuid import UUID, uuid4

import pytest
from click.testing import CliRunner, Result
from sqlalchemy import Engine, select, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from config.settings import Settings, environ_of
from orchestrator import audit
from orchestrator.cli.main import main
from orchestrator.db.database import Database
from orchestrator.maintenance import sweeps
from orchestrator.models import Actor, ActorKind, AuditEntry
from tests.conftest import empty

PATIENCE = timedelta(minutes=1)
SECRET = "a value that must not be recorded"


@pytest.fixture(autouse=True)
def _emptied(engine: Engine) -> None:
    """No entries of `migrate`."""
    with engine.begin() as connection:
        empty(connection)


def _record(database: Database, tenant_id: UUID, count: int = 1, start: int = 0) -> None:
    for number in range(start, start + count):
        with database.transaction() as session:
            after = {"number": number, "text": 'ä ☃ " \\ \x7f', "share": 1.5, "list": [1, None]}
            audit.record(session, tenant_id, "run.cancel", number, after=after)


def _link_all(database: Database) -> None:
    while sweeps.link_audit(database):
        pass


def _verify(database: Database, limit: int = 1000) -> audit.ChainReport:
    with database.transaction() as session:
        return audit.verify(session, patience=PATIENCE, limit=limit)


def _entries(database: Database, tenant_id: UUID) -> list[AuditEntry]:
    with database.transaction() as session:
        statement = select(AuditEntry).filter_by(tenant_id=tenant_id).order_by(AuditEntry.id)
        return list(session.scalars(statement))


def test_entries_are_numbered_and_chained_for_each_tenant(database: Database) -> None:
    one, other = uuid4(), uuid4()
    _record(database, one, 3)
    _record(database, other, 2)

    _link_all(database)
    _record(database, one, 2, start=3)
    _link_all(database)

    assert [each.number for each in _entries(database, one)] == [1, 2, 3, 4, 5]
    assert [each.number for each in _entries(database, other)] == [1, 2]
    previous = ""
    for entry in _entries(database, one):
        assert entry.hash == audit.entry_hash(previous, audit.document(entry))
        previous = entry.hash
    report = _verify(database)
    assert (report.chains, report.entries, report.verified) == (2, 7, 7)
    assert report.mistakes == []


def test_sweeps_that_link_at_the_same_time_make_one_chain(database: Database) -> None:
    tenant_id = uuid4()
    with ThreadPoolExecutor(6) as pool:
        writers = [pool.submit(_record, database, tenant_id, 30) for _ in range(3)]
        linkers = [pool.submit(_link_all, database) for _ in range(3)]
        for each in (*writers, *linkers):
            each.result()

    _link_all(database)

    numbers = sorted(each.number or 0 for each in _entries(database, tenant_id))
    assert numbers == list(range(1, 91))
    assert _verify(database).mistakes == []


def test_what_is_rolled_back_is_not_recorded(database: Database) -> None:
    tenant_id = uuid4()

    def fail() -> None:
        with database.transaction() as session:
            audit.record(session, tenant_id, "run.cancel", 1, after={"state": "cancelled"})
            raise LookupError

    with pytest.raises(LookupError):
        fail()

    assert _entries(database, tenant_id) == []


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE audit SET after = '{}'",
        "UPDATE audit SET hash = 'x', number = 1, verb = 'run.retry'",
        "UPDATE audit SET hash = 'x' WHERE hash IS NOT NULL",
        "UPDATE audit SET hash = NULL, number = NULL",
        "DELETE FROM audit",
        "TRUNCATE audit",
    ],
)
def test_not_even_the_owner_of_the_tables_changes_an_entry(
    database: Database, statement: str
) -> None:
    tenant_id = uuid4()
    _record(database, tenant_id, 2)
    _link_all(database)
    _record(database, tenant_id, start=2)

    with pytest.raises(DBAPIError, match="only appended to"), database.transaction() as session:
        session.execute(text(statement))

    assert len(_entries(database, tenant_id)) == 3


# Each by somebody who has switched the trigger off.
DAMAGES: dict[str, Callable[[str], str]] = {
    "entry 4 was changed": lambda of: f"UPDATE audit SET after = '{{}}' WHERE {of} AND number = 4",
    "entry 5 was changed": lambda of: f"UPDATE audit SET name = 'x' WHERE {of} AND number = 5",
    "entry 3 is missing": lambda of: f"DELETE FROM audit WHERE {of} AND number = 3",
    "entry 1 is missing": lambda of: f"DELETE FROM audit WHERE {of} AND number = 1",
    "missing at its end": lambda of: f"DELETE FROM audit WHERE {of} AND number > 6",
    "not written by the sweep": lambda of: (
        f"""
        INSERT INTO audit (id, tenant_id, number, actor, verb, object_type, object_id, hash)
        SELECT gen_random_uuid(), tenant_id, 9, 'key', 'run.cancel', 'run', '1', hash
        FROM audit WHERE {of} AND number = 8"""
    ),
    "entry 8 was changed": lambda of: (
        f"""
        UPDATE audit SET hash = repeat('0', 64) WHERE {of} AND number = 8"""
    ),
    "entry 2 was changed": lambda of: (
        f"""
        UPDATE audit SET at = at - interval '1 day' WHERE {of} AND number = 2"""
    ),
}


@pytest.mark.parametrize("mistake", DAMAGES)
def test_every_damage_is_noticed(engine: Engine, database: Database, mistake: str) -> None:
    tenant_id = uuid4()
    _record(database, tenant_id, 8)
    _link_all(database)

    with Session(engine) as session, session.begin():
        session.execute(text("ALTER TABLE audit DISABLE TRIGGER USER"))
        session.execute(text(DAMAGES[mistake](f"tenant_id = '{tenant_id}'")))
        session.execute(text("ALTER TABLE audit ENABLE TRIGGER USER"))

    (noticed,) = _verify(database).mistakes
    assert mistake in noticed
    assert str(tenant_id) in noticed


def _verify_all(settings: Settings) -> Result:
    return CliRunner().invoke(main, ["audit", "verify"], env=environ_of(settings))


@pytest.mark.parametrize("number", [1, 2, 500, 501, 1100])
def test_a_command_verifies_every_entry_and_names_the_first_broken_one(
    engine: Engine, database: Database, settings: Settings, number: int
) -> None:
    long, short = uuid4(), uuid4()
    with database.transaction() as session:
        changes = [audit.Change(n, {}, {"n": n}) for n in range(1100)]
        audit.record_all(session, long, "run.cancel", changes)
    _record(database, short, 2)
    _link_all(database)
    fine = _verify_all(settings)
    assert (fine.exit_code, fine.stdout) == (0, "1,102 of 1,102 entries in 2 chains verified\n")

    with engine.begin() as connection:
        connection.execute(text("ALTER TABLE audit DISABLE TRIGGER USER"))
        change = f"UPDATE audit SET name = 'x' WHERE tenant_id = '{long}' AND number = {number}"
        connection.execute(text(change))
        connection.execute(text("ALTER TABLE audit ENABLE TRIGGER USER"))
    broken = _verify_all(settings)

    lines = broken.stdout.splitlines()
    assert broken.exit_code == 1
    assert lines[0] == f"{number + 1:,} of 1,102 entries in 2 chains verified"
    assert len(lines) == 2
    assert f"tenant {long}: entry {number} was changed" in lines[1]


@pytest.mark.parametrize("name", ["keep", "keep_all"])
def test_a_trigger_that_is_off_is_noticed(engine: Engine, database: Database, name: str) -> None:
    with engine.begin() as connection:
        connection.execute(text(f"ALTER TABLE audit DISABLE TRIGGER {name}"))
    try:
        (mistake,) = _verify(database).mistakes
    finally:
        with engine.begin() as connection:
            connection.execute(text("ALTER TABLE audit ENABLE TRIGGER USER"))

    assert "off or gone" in mistake
    assert _verify(database).mistakes == []


def test_a_head_that_is_gone_is_noticed(database: Database) -> None:
    tenant_id = uuid4()
    _record(database, tenant_id, 3)
    _link_all(database)
    with database.transaction() as session:
        session.execute(text("UPDATE audit_heads SET number = 2"))

    (mistake,) = _verify(database).mistakes

    assert "entry 3 was not written by the sweep" in mistake


def test_a_verification_reads_only_the_newest_entries(database: Database) -> None:
    long, short = uuid4(), uuid4()
    _record(database, long, 30)
    _record(database, short, 3)
    _link_all(database)

    report = _verify(database, limit=12)

    assert report.entries == 33
    assert 6 <= report.verified <= 12
    assert report.mistakes == []


def test_entries_that_wait_long_for_their_number_are_counted(
    engine: Engine, database: Database
) -> None:
    _record(database, uuid4(), 2)
    with Session(engine) as session, session.begin():
        session.execute(text("ALTER TABLE audit DISABLE TRIGGER USER"))
        session.execute(text("UPDATE audit SET at = at - interval '2 min'"))
        session.execute(text("ALTER TABLE audit ENABLE TRIGGER USER"))

    assert _verify(database).waiting == 2
    _link_all(database)
    assert _verify(database).waiting == 0


def test_only_what_differs_is_recorded_and_of_params_only_names(database: Database) -> None:
    tenant_id = uuid4()
    before = {"name": "a", "tags": ["x"], "params": {"day": 1, "key": SECRET, "old": 0}}
    after = {"name": "a", "tags": ["x", "y"], "params": {"day": 1, "key": f"{SECRET}!", "new": 2}}
    with database.transaction() as session:
        audit.record(session, tenant_id, "schedule.change", 1, before=before, after=after)
        audit.record(session, tenant_id, "schedule.change", 2, before=after, after=after)
        audit.record(session, tenant_id, "run.annotate", 3, after={"annotations": {"k": SECRET}})
        audit.record(session, tenant_id, "run.cancel", 4, after={"reason": "x" * 100_000})

    changed, annotated, long = _entries(database, tenant_id)

    assert changed.before == {"tags": ["x"], "params": ["key", "old"]}
    assert changed.after == {"tags": ["x", "y"], "params": ["key", "new"]}
    assert annotated.after == {"annotations": ["k"]}
    assert len(long.after["reason"]) < 5000


def test_an_entry_names_who_acts(database: Database) -> None:
    tenant_id = uuid4()
    actor = Actor(actor=ActorKind.KEY, name="ci", key_id=uuid4(), user="ana", request_id="r1")

    with database.acting(actor).transaction() as session:
        audit.record(session, tenant_id, "key.revoke", 1)
    with database.transaction() as session:
        audit.record(session, tenant_id, "key.revoke", 2)
    with database.acting(audit.sweep_actor("fire")).transaction() as session:
        audit.record(session, tenant_id, "run.cancel", 3)

    named, unnamed, swept = _entries(database, tenant_id)
    assert (named.actor, named.name, named.user, named.request_id) == ("key", "ci", "ana", "r1")
    assert named.key_id == actor.key_id
    assert (unnamed.actor, unnamed.name) == ("process", None)
    assert (swept.actor, swept.name) == ("sweep", "fire")
