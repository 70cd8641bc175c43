"""The declarative base of every table, and their common columns."""

import enum
from datetime import datetime
from typing import Annotated, Any, ClassVar
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    DateTime,
    Enum,
    FetchedValue,
    ForeignKey,
    Identity,
    MetaData,
    Text,
    Uuid,
    false,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from uuid_utils.compat import uuid7

# Storage parameters. A table of millions must not wait for a vacuum until a fifth of it is dead:
# every row of a run dies several times while it is young.
UPDATED_OFTEN: dict[str, Any] = {
    "postgresql_with": {
        "autovacuum_vacuum_scale_factor": 0.01,
        "autovacuum_vacuum_threshold": 1000,
        "autovacuum_analyze_scale_factor": 0.02,
        "autovacuum_vacuum_cost_delay": 0,
    }
}
UPDATED_IN_PLACE: dict[str, Any] = {
    "postgresql_with": {"fillfactor": 70, **UPDATED_OFTEN["postgresql_with"]}
}
SHORT_LIVED: dict[str, Any] = {  # small, and every row of it dies within seconds
    "postgresql_with": {
        "autovacuum_vacuum_scale_factor": 0,
        "autovacuum_vacuum_threshold": 500,
        "autovacuum_analyze_scale_factor": 0,
        "autovacuum_analyze_threshold": 5000,
        "autovacuum_vacuum_cost_delay": 0,
    }
}
APPENDED: dict[str, Any] = {
    "postgresql_with": {
        "autovacuum_vacuum_insert_scale_factor": 0.05,
        "autovacuum_analyze_scale_factor": 0.02,
    }
}


class Base(DeclarativeBase):
    """Names every constraint, stores enums by value and times with their zone."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map: ClassVar = {
        str: Text,
        datetime: DateTime(timezone=True),
        dict[str, Any]: JSONB(none_as_null=True),
        list[dict[str, Any]]: JSONB(none_as_null=True),
        list[str]: ARRAY(Text),
        list[UUID]: ARRAY(Uuid),
        enum.StrEnum: Enum(
            enum.StrEnum,
            native_enum=False,
            length=20,
            create_constraint=True,
            values_callable=lambda states: [state.value for state in states],
        ),
    }


RowId = Annotated[int, mapped_column(BigInteger, Identity(always=False), primary_key=True)]


def made_at() -> Mapped[datetime]:
    """A column with the time of the insert."""
    return mapped_column(server_default=func.now())


class Resource:
    """The columns of what callers name by its id or its number."""

    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid7)
    # Of the tenant's, from 1 on; by a trigger, `assign_number`.
    number: Mapped[int] = mapped_column(BigInteger, server_default=FetchedValue())
    created_at: Mapped[datetime] = made_at()


class TenantResource(Resource):
    """A resource that a tenant owns."""

    tenant_id: Mapped[UUID] = mapped_column(ForeignKey("tenants.id"))


def numbered_or_id(model: type[Resource], which: UUID | int) -> ColumnElement[bool]:
    """The condition that a row has this id or number."""
    if isinstance(which, int):  # no row has a number too large for the column
        return model.number == which if 0 < which < 2**63 else false()
    return model.id == which


def empty(kind: str) -> Mapped[Any]:
    """A column with an empty object or list as default."""
    return mapped_column(server_default=text(f"'{kind}'"))
