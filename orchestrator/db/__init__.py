"""Connections, transactions, statements, guarded transitions, journal, outbox, schema."""

from typing import Any

import sqlalchemy as sa

Row = sa.Row[Any]  # a row of a statement, its columns as attributes
