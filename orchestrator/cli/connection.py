"""Which API and database a command uses."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click

from config.settings import PREFIX, Settings
from orchestrator.cli.files import read_text


def client_of(settings: Settings) -> Any:
    """A client of the API, with the key of the settings or of the local `up`."""
    from orchestrator.access import secrets
    from orchestrator.client import Client

    url_file = settings.data_dir / "url"
    url = settings.url or (read_text(url_file) if url_file.exists() else "http://127.0.0.1:8000")
    key = settings.key or secrets.known_admin_key(settings)
    if not key:
        raise click.ClickException(
            f"no key: set {PREFIX}KEY, or run where `orchestrator up` keeps its data"
            f" ({settings.data_dir} is not here)"
        )
    if not (key.isascii() and key.isprintable()):
        raise click.ClickException(f"{PREFIX}KEY has a character that no key has; copy it again")
    return Client(url, key)


def database_url(settings: Settings) -> str:
    """The database that the settings name. Raises ClickException without one."""
    if not settings.database_url:
        raise click.ClickException(
            f"set {PREFIX}DATABASE_URL; only `orchestrator up` brings a Postgres of its own"
        )
    return settings.database_url


def known_database_url(settings: Settings) -> str:
    """The database that the settings name, else that of the local `up`."""
    from orchestrator.local import services

    if settings.database_url:
        return settings.database_url
    directory = settings.data_dir.absolute() / "pg"
    url = services.running_postgres(directory)
    if url is None:
        raise click.ClickException(
            f"no Postgres runs in {directory}: `orchestrator up` starts one;"
            f" for another one set {PREFIX}DATABASE_URL"
        )
    return url


@contextmanager
def open_database(url: str) -> Iterator[Any]:
    """The database at a URL. Raises Unavailable, with the remedy, for a schema of no use here."""
    from orchestrator import audit
    from orchestrator.db import schema
    from orchestrator.db.database import Database
    from orchestrator.db.engine import make_engine

    engine = make_engine(url, pool_size=1)
    try:
        schema.check_schema(engine)
        yield Database(engine, lambda _: None).acting(audit.command_actor())
    finally:
        engine.dispose()
