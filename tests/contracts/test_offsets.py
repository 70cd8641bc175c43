"""Pages by offset while runs are inserted: each run once."""

from collections.abc import Iterator
from datetime import timedelta

import pytest
from flask.testing import FlaskClient

from api.toolkit import paging
from orchestrator import runs
from orchestrator.db.database import Database
from tests.contracts.adapter import Adapter
from tests.contracts.runs import default_tenant
from tests.support.factories import a_run, a_spec, a_tenant

SPEC = a_spec(steps=2)


def _pages(
    adapter: Adapter, client: FlaskClient, database: Database, *, limit: int = 2
) -> Iterator[list[str]]:
    """The ids of each page, by a client that goes on until it has as many as the first one says."""
    tenant_id, offset = default_tenant(database), 0
    while True:
        answer = adapter.page(client, tenant_id, limit=limit, offset=offset, workflow="work")
        ids = adapter.ids_in(answer)
        if not ids:
            return
        yield ids
        if adapter.name == "solvexia":  # it has no pages
            return
        offset += limit


@pytest.mark.row("all: pages by offset show each run once while runs are inserted")
def test_each_run_is_on_one_page_while_others_are_inserted(
    adapter: Adapter, ours: FlaskClient, database: Database
) -> None:
    made = [adapter.wire_id(a_run(database, SPEC, window=0)) for _ in range(7)][::-1]

    listed: list[str] = []
    for page in _pages(adapter, ours, database):
        listed += page
        for _ in range(3):
            a_run(database, SPEC, window=0)

    assert listed == made


def test_no_run_is_lost_while_others_are_deleted(
    adapter: Adapter, ours: FlaskClient, database: Database
) -> None:
    made = [a_run(database, SPEC, window=0) for _ in range(6)][::-1]
    shown = [adapter.wire_id(run) for run in made]

    pages = _pages(adapter, ours, database)
    listed = next(pages)
    with database.transaction() as session:
        runs.cancel(session, a_tenant(session), made[0].id, grace=timedelta(0))
        runs.delete(session, a_tenant(session), made[0].id)
    for page in pages:
        listed += page

    assert listed == shown


def test_pages_in_order_of_their_own_have_one_total(
    adapter: Adapter, ours: FlaskClient, database: Database
) -> None:
    if adapter.name in ("solvexia", "mindzie"):
        pytest.skip("a list has no total")
    tenant_id = default_tenant(database)
    for _ in range(3):
        a_run(database, SPEC, window=0)

    def total(offset: int) -> int | None:
        page = adapter.page(ours, tenant_id, limit=2, offset=offset, workflow="work")
        return adapter.total_in(page)

    first = total(0)
    a_run(database, SPEC, window=0)
    assert (first, total(2), total(0), total(2)) == (3, 3, 4, 4)


def test_a_page_whose_predecessor_is_unknown_is_counted(
    adapter: Adapter,
    ours: FlaskClient,
    database: Database,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if adapter.name == "solvexia":
        pytest.skip("it has no pages")
    made = [adapter.wire_id(a_run(database, SPEC, window=0)) for _ in range(5)][::-1]
    tenant_id = default_tenant(database)

    def ids(offset: int) -> list[str]:
        page = adapter.page(ours, tenant_id, limit=2, offset=offset, workflow="work")
        return adapter.ids_in(page)

    def add() -> None:
        made.insert(0, adapter.wire_id(a_run(database, SPEC, window=0)))

    assert (ids(0), ids(4), ids(2)) == (made[:2], made[4:], made[2:4])
    add()
    assert (ids(4), ids(4)) == (made[5:], made[5:])  # it follows, and is read again
    assert (ids(2), ids(2)) == (made[2:4], made[2:4])
    add()
    assert ids(2) == made[2:4]  # what began by counting counts again
    for limit in ("_MAX_AGE", "_MAX_LISTS"):
        with monkeypatch.context() as patch:
            patch.setattr(paging, limit, 0)
            assert ids(0) == made[:2]
            add()
            assert ids(2) == made[2:4]


@pytest.mark.parametrize(
    ("path", "members", "name"),
    [
        ("/api/pipelines?_limit=2&_offset=", "pipelines", "uuid"),
        ("/api/process/v1?_limit=2&_skip=", None, "name"),
    ],
)
def test_each_workflow_is_on_one_page_while_others_are_made(
    ours: FlaskClient, database: Database, path: str, members: str | None, name: str
) -> None:
    made = [f"m{number}" for number in range(5)]
    for each in made:
        a_run(database, a_spec(each))

    listed: list[str] = []
    for offset in range(0, 6, 2):
        page = ours.get(f"{path}{offset}").json
        listed += [each[name] for each in (page[members] if members else page)]  # type: ignore[index]
        a_run(database, a_spec(f"a{offset}"))  # stands before them

    assert listed == [*made, "work"]
