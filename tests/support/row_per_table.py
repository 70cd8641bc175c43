"""A row in every table, generated from the metadata of the tables."""

import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import ARRAY, Column, Connection, Enum, Table, insert
from sqlalchemy.dialects.postgresql import JSONB

from orchestrator.db.migrate import Run

PLAIN: dict[type, Any] = {
    bool: False,
    int: 1,
    float: 1.0,
    datetime: datetime.now(UTC),
    timedelta: timedelta(seconds=1),
}

WORDS = {"trigger": "manual"}  # columns of a text that is one of some words

Row = dict[str, Any]
Rows = dict[str, Row]  # a row by the name of its table


def filled(connection: Connection, owner: str) -> Rows:
    """Insert a tenant and one row of it into every table of the metadata."""
    rows: Rows = {}
    for table in sorted(Run.metadata.sorted_tables, key=_refers_by_name_only):
        values = {
            column.name: _value(column, rows, owner)
            for column in table.columns
            if not column.nullable and column.server_default is None and column.identity is None
        }
        row = connection.execute(insert(table).values(values).returning(*table.columns)).one()
        rows[table.name] = dict(row._mapping)
    return rows


def _refers_by_name_only(table: Table) -> bool:
    """Whether some of its references are not foreign keys; such tables are filled last."""
    ids = [column for column in table.columns if column.name.endswith("_id")]
    return any(not column.nullable and not column.foreign_keys for column in ids)


def _value(column: Column[Any], rows: Rows, owner: str) -> Any:
    """A value for a column: from the row that it refers to, else by its type."""
    for reference in column.foreign_keys:
        return rows[reference.column.table.name][reference.column.name]
    named = f"{column.name.removesuffix('_id')}s"
    if column.name.endswith("_id") and named in rows:
        return rows[named]["id"]
    if isinstance(column.type, Enum):
        return column.type.enums[0]
    if isinstance(column.type, JSONB | ARRAY):
        return {} if isinstance(column.type, JSONB) else []
    kind = column.type.python_type
    if kind is uuid.UUID:
        return uuid.uuid4()
    text = WORDS.get(column.name, f"{owner} {column.table.name}")
    return text if kind is str else PLAIN[kind]
