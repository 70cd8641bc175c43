"""Numbers in `jsonb`: each comes back as it was written, a float as a float."""

import sys

import pytest
from sqlalchemy import Engine, bindparam, text
from sqlalchemy.dialects.postgresql import JSONB

from orchestrator.db import statements
from orchestrator.db.database import Database

NUMBERS = [
    0, -1, 2**53 + 1, 2**63, -(2**63), 2**200, 10**308, 10**3000,
    0.0, 1.0, -2.5, 0.1, 1e16, 1e22, -1e22, 1.5e300, 1e308, sys.float_info.max,
    1e-7, 5e-324, sys.float_info.min, sys.float_info.epsilon, 123456789012345680.0,
]  # fmt: skip


@pytest.mark.parametrize("number", NUMBERS)
def test_a_number_of_a_mapped_column_keeps_its_type(engine: Engine, number: float) -> None:
    query = text("SELECT :value AS value").bindparams(bindparam("value", type_=JSONB))
    with engine.connect() as connection:
        value = connection.execute(query.columns(value=JSONB), {"value": [number]}).scalar_one()

    assert repr(value) == repr([number])


def test_numbers_of_a_statement_keep_their_types(database: Database) -> None:
    document = statements.to_json(NUMBERS)
    with database.transaction() as session:
        row = statements.row(session, "SELECT CAST(:value AS jsonb) AS value", value=document)

    assert row is not None
    assert repr(row.value) == repr(NUMBERS)
