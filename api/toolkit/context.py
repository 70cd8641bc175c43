"""What views use of the application and the request: transactions, settings, the caller."""

from contextlib import AbstractContextManager
from dataclasses import dataclass
from uuid import UUID

from flask import current_app, g
from sqlalchemy.orm import Session

from api.toolkit.event_feed import EventFeed
from config.settings import Settings
from orchestrator.access.authentication import Principal
from orchestrator.broker.client import Broker
from orchestrator.db.database import Database
from orchestrator.models import Role

EXTENSION = "orchestrator"  # of a Flask application, which has its `Services`


@dataclass(frozen=True)
class Services:
    """The resources of the application."""

    settings: Settings
    database: Database  # with row-level security: one tenant per transaction
    unscoped_database: Database  # autocommit, all tenants: for queries that name their tenant
    feed: EventFeed
    broker: Broker
    secret_key: str


def services() -> Services:
    """The resources of the current application."""
    instance: Services = current_app.extensions[EXTENSION]
    return instance


def settings() -> Settings:
    """The settings of this deployment."""
    return services().settings


def transaction(
    role: Role = Role.VIEWER, *, snapshot: bool = False
) -> AbstractContextManager[Session]:
    """One transaction for the caller's tenant; it cannot see another tenant's rows.

    Raises Forbidden for a lower role, before it opens one.
    """
    caller().must_be(role)
    return services().database.transaction(tenant(), snapshot=snapshot)


def caller() -> Principal:
    """The authenticated caller, set by `auth` before the view runs."""
    principal: Principal = g.caller
    return principal


def tenant() -> UUID:
    """The tenant of the caller."""
    return caller().tenant_id
