"""The two tables of the schema `ecb_fx`, for concurrent and repeated writes."""

from collections.abc import Mapping
from datetime import date
from decimal import Decimal

from sqlalchemy import (
    CheckConstraint,
    Column,
    Connection,
    Date,
    DateTime,
    Engine,
    MetaData,
    Numeric,
    Table,
    Text,
    func,
    select,
)
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.schema import CreateSchema

SCHEMA = "ecb_fx"
_METADATA = MetaData(schema=SCHEMA)
_LOCK = 0x6563625F6678  # key of the advisory lock of `create`: "ecb_fx" in ASCII


def _values_by_day(name: str) -> Table:
    return Table(
        name,
        _METADATA,
        Column("date", Date, primary_key=True),
        Column("series", Text, primary_key=True),
        Column("value", Numeric, CheckConstraint("value > 0"), nullable=False),
        Column("loaded_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    )


RATES = _values_by_day("rates")
CROSS_RATES = _values_by_day("cross_rates")


def create(engine: Engine) -> None:
    """Create the schema and the tables that are missing; safe for concurrent calls."""
    with engine.begin() as connection:
        # "IF NOT EXISTS" alone fails when two transactions create the same object at once.
        connection.execute(select(func.pg_advisory_xact_lock(_LOCK)))
        connection.execute(CreateSchema(SCHEMA, if_not_exists=True))
        _METADATA.create_all(connection)


def upsert(connection: Connection, table: Table, day: date, values: Mapping[str, Decimal]) -> None:
    """Insert or update the values of one day."""
    # Sorted: two transactions lock the rows of a day in the same order, without a deadlock.
    rows = [{"date": day, "series": name, "value": values[name]} for name in sorted(values)]
    new = insert(table).values(rows)
    connection.execute(
        new.on_conflict_do_update(
            index_elements=table.primary_key.columns,
            set_={"value": new.excluded.value, "loaded_at": func.now()},
        )
    )
