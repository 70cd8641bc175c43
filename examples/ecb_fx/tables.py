"""The two tables of the schema `ecb_fx`; many may write them at once, and repeat themselves."""

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
_CREATION = 0x6563625F6678  # the advisory lock of whoever creates the tables: "ecb_fx" in ASCII


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
    """Create what is missing; whoever comes second waits for the first, then finds it done."""
    with engine.begin() as connection:
        # "IF NOT EXISTS" alone fails when two create the same thing at the same instant.
        connection.execute(select(func.pg_advisory_xact_lock(_CREATION)))
        connection.execute(CreateSchema(SCHEMA, if_not_exists=True))
        _METADATA.create_all(connection)


def upsert(connection: Connection, table: Table, day: date, values: Mapping[str, Decimal]) -> None:
    """Write the values of one day over those that stand there."""
    # Sorted, so that two who load the same day lock its rows in one order and never each other.
    rows = [{"date": day, "series": name, "value": values[name]} for name in sorted(values)]
    new = insert(table).values(rows)
    connection.execute(
        new.on_conflict_do_update(
            index_elements=table.primary_key.columns,
            set_={"value": new.excluded.value, "loaded_at": func.now()},
        )
    )
