"""What a view may reach for: a transaction, the settings, who asks."""

from contextlib import AbstractContextManager
from dataclasses import dataclass
from uuid import UUID

from flask import current_app, g
from sqlalchemy.orm import Session

from api.feed import Feed
from config.settings import Settings
from orchestrator.broker import Broker
from orchestrator.callers import Caller
from orchestrator.db import Database

_NAME = "orchestrator"


@dataclass(frozen=True)
class Parts:
    """What the application was put together from."""

    settings: Settings
    database: Database  # acts for one tenant at a time
    doors: Database  # sees every tenant's rows: for short questions that name whose they are
    feed: Feed
    broker: Broker
    secret_key: str


def hold(app: object, parts: Parts) -> None:
    """Keep the parts where the views find them."""
    app.extensions[_NAME] = parts  # type: ignore[attr-defined]


def parts() -> Parts:
    """What the application was put together from."""
    held: Parts = current_app.extensions[_NAME]
    return held


def settings() -> Settings:
    """What this deployment chose."""
    return parts().settings


def transaction() -> AbstractContextManager[Session]:
    """One transaction for the caller's tenant; it cannot see another tenant's rows."""
    return parts().database.transaction(tenant())


def caller() -> Caller:
    """Who asks; set by `auth` before any view runs."""
    who: Caller = g.caller
    return who


def tenant() -> UUID:
    """For whom the caller asks."""
    return caller().tenant_id
