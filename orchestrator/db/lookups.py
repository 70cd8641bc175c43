"""Reads that every package needs: a row of a tenant, a page, a count, the database's clock."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, TypeVar
from uuid import UUID

from sqlalchemy import ColumnElement, Select, and_, false, func, or_, select, true
from sqlalchemy.orm import Session

from orchestrator.errors import NotFound
from orchestrator.models.base import Base, numbered_or_id

Model = TypeVar("Model", bound=Base)


def find(
    session: Session,
    model: type[Model],
    tenant_id: UUID,
    which: UUID | int | str,
    *,
    lock: bool = False,
    key_share: bool = False,
) -> Model:
    """A tenant's row by id, number or name, as the database has it now. Raises NotFound.

    `lock` is FOR UPDATE; with `key_share` it is FOR NO KEY UPDATE, which does not block inserts of
    rows that refer to this one.
    """
    columns: Any = model
    matches = columns.name == which if isinstance(which, str) else numbered_or_id(columns, which)
    statement = select(model).where(columns.tenant_id == tenant_id, matches)
    if lock:
        statement = statement.with_for_update(key_share=key_share)
    row = session.scalar(statement.execution_options(populate_existing=True))
    if row is None:
        label = repr(which) if isinstance(which, str) else which
        raise NotFound(f"there is no {model.__name__.lower()} {label}")
    return row


def count(session: Session, model: type[Base], *conditions: ColumnElement[bool]) -> int:
    """The number of rows that meet all conditions."""
    return session.scalars(select(func.count()).select_from(model).where(*conditions)).one()


def page_after(
    session: Session, statement: Select[Model], key: Any, after: Any, limit: int
) -> list[Model]:
    """A page in ascending order of a unique column, of the rows with a value above `after`."""
    if after is not None:
        statement = statement.where(key > after)
    return list(session.scalars(statement.order_by(key).limit(limit)))


def page_before(
    session: Session, statement: Select[Model], key: Any, before: Any, limit: int
) -> list[Model]:
    """A page in descending order of a unique column, of the rows with a value below `before`."""
    if before is not None:
        statement = statement.where(key < before)
    return list(session.scalars(statement.order_by(key.desc()).limit(limit)))


def is_after(order: Sequence[tuple[Any, bool]], position: Sequence[Any]) -> ColumnElement[bool]:
    """Whether a row comes after a position: a value of each column, which may descend.

    NULLs come last, first in descending order, as Postgres sorts them.
    """
    (column, descends), *columns = order
    value, *values = position
    if value is None:
        later = column.is_not(None) if descends else false()
        same, not_before = column.is_(None), true() if descends else column.is_(None)
    elif descends:
        later, same, not_before = column < value, column == value, column <= value
    else:
        later, same = or_(column > value, column.is_(None)), column == value
        not_before = or_(column >= value, column.is_(None))
    if not columns:
        return later
    # The first part is one that an index can begin with.
    return and_(not_before, or_(later, and_(same, is_after(columns, values))))


def database_now(session: Session) -> datetime:
    """When this transaction began, by the clock of Postgres."""
    return session.scalars(select(func.now())).one()
