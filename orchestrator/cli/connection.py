"""What a command finds out from the settings: which API it speaks to, and which database."""

from typing import Any

import click

from config.settings import PREFIX, Settings


def client_of(settings: Settings) -> Any:
    """The API's client, with the setting's key or the one that `up` keeps."""
    from orchestrator.access import secrets
    from orchestrator.client import Client

    written = settings.data_dir / "url"
    url = settings.url or (written.read_text() if written.exists() else "http://127.0.0.1:8000")
    key = settings.key or secrets.known_admin_key(settings)
    if not key:
        raise click.ClickException(
            f"no key: set {PREFIX}KEY, or run where `orchestrator up` keeps its data"
            f" ({settings.data_dir} is not here)"
        )
    return Client(url, key)


def database_url(settings: Settings) -> str:
    """The database that the settings name."""
    if not settings.database_url:
        raise click.ClickException(
            f"set {PREFIX}DATABASE_URL; only `orchestrator up` brings a Postgres of its own"
        )
    return settings.database_url


def known_database_url(settings: Settings) -> str:
    """The database that the settings name, else that of the `up` that runs here."""
    from orchestrator.local import services

    if settings.database_url:
        return settings.database_url
    directory = settings.data_dir.resolve() / "pg"
    found = services.running_postgres(directory)
    if found is None:
        raise click.ClickException(
            f"no Postgres runs in {directory}: `orchestrator up` starts one;"
            f" for another one set {PREFIX}DATABASE_URL"
        )
    return found


def known_redis_url(settings: Settings) -> str:
    """The Redis that the settings name, else that of the `up` that runs here, else nothing."""
    from orchestrator.local import services

    return settings.redis_url or services.running_redis(settings.data_dir.resolve() / "redis")
