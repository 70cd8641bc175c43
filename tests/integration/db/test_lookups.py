"""The position in a list, for columns of any order and with NULLs."""

from itertools import product

import pytest
import sqlalchemy as sa

from orchestrator.db import lookups
from orchestrator.db.database import Database


@pytest.mark.parametrize("directions", list(product((True, False), repeat=3)))
def test_the_rows_after_a_position_are_those_that_are_sorted_after_it(
    database: Database, directions: tuple[bool, bool, bool]
) -> None:
    values = [None, "a", "b"]
    rows = [(x, y, n) for n, (x, y) in enumerate(product(values, values))]
    columns = sa.column("x", sa.String), sa.column("y", sa.String), sa.column("n", sa.Integer)
    table = sa.values(*columns, name="rows").data(rows)
    keys = [lookups.SortKey(*each) for each in zip(table.c, directions, strict=True)]
    by = [key.clause() for key in keys]

    with database.transaction() as session:
        everything = session.execute(sa.select(table).order_by(*by)).all()
        for place, row in enumerate(everything):
            after = sa.select(table).where(lookups.is_after(keys, row)).order_by(*by)
            assert session.execute(after).all() == everything[place + 1 :]
