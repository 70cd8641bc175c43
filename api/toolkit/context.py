"""What a view may reach for: a transaction, the settings, who asks."""

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

_NAME = "orchestrator"


@dataclass(frozen=True)
class Services:
    """What the application was put together from."""

    settings: Settings
    database: Database  # acts for one tenant at a time
    doors: Database  # sees every tenant's rows: for short questions that name whose they are
    feed: EventFeed
    broker: Broker
    secret_key: str


def install_services(app: object, parts: Services) -> None:
    """Keep the parts where the views find them."""
    app.extensions[_NAME] = parts  # type: ignore[attr-defined]


def services() -> Services:
    """What the application was put together from."""
    held: Services = current_app.extensions[_NAME]
    return held


def settings() -> Settings:
    """What this deployment chose."""
    return services().settings


def transaction() -> AbstractContextManager[Session]:
    """One transaction for the caller's tenant; it cannot see another tenant's rows."""
    return services().database.transaction(tenant())


def caller() -> Principal:
    """Who asks; set by `auth` before any view runs."""
    who: Principal = g.caller
    return who


def tenant() -> UUID:
    """For whom the caller asks."""
    return caller().tenant_id
