"""Reads that every package needs: a row of a tenant, a page, a count, the database's clock."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple, TypeVar, cast
from uuid import UUID

from sqlalchemy import ColumnElement, Select, and_, false, func, or_, select
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


class SortKey(NamedTuple):
    """A column that a list is sorted by. NULLs come last, in descending order, too."""

    column: Any
    descends: bool
    nullable: bool = True

    def clause(self) -> Any:
        """What ORDER BY gets."""
        if not self.descends:
            return self.column
        return self.column.desc().nulls_last() if self.nullable else self.column.desc()


def is_after(keys: Sequence[SortKey], position: Sequence[Any]) -> ColumnElement[bool]:
    """Whether a row comes after a position, which is a value of each column."""
    (key, *others), (value, *values) = keys, position
    column, never = key.column, cast(ColumnElement[bool], false())
    is_null = column.is_(None) if key.nullable else never
    if value is None:
        later, same, not_before = never, is_null, is_null
    elif key.descends:
        later, same = or_(column < value, is_null), column == value
        not_before = or_(column <= value, is_null)
    else:
        later, same = or_(column > value, is_null), column == value
        not_before = or_(column >= value, is_null)
    if not others:
        return later
    # The first part is one that an index can begin with.
    return and_(not_before, or_(later, and_(same, is_after(others, values))))


def database_now(session: Session) -> datetime:
    """When this transaction began, by the clock of Postgres."""
    return session.scalars(select(func.now())).one()
