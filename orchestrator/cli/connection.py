"""Which API, database and Redis a command uses."""

from typing import Any

import click

from config.settings import PREFIX, Settings


def client_of(settings: Settings) -> Any:
    """A client of the API, with the key of the settings or of the local `up`."""
    from orchestrator.access import secrets
    from orchestrator.client import Client

    url_file = settings.data_dir / "url"
    url = settings.url or (url_file.read_text() if url_file.exists() else "http://127.0.0.1:8000")
    key = settings.key or secrets.known_admin_key(settings)
    if not key:
        raise click.ClickException(
            f"no key: set {PREFIX}KEY, or run where `orchestrator up` keeps its data"
            f" ({settings.data_dir} is not here)"
        )
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
    directory = settings.data_dir.resolve() / "pg"
    url = services.running_postgres(directory)
    if url is None:
        raise click.ClickException(
            f"no Postgres runs in {directory}: `orchestrator up` starts one;"
            f" for another one set {PREFIX}DATABASE_URL"
        )
    return url


def known_redis_url(settings: Settings) -> str:
    """The Redis that the settings name, else that of the local `up`, else an empty string."""
    from orchestrator.local import services

    return settings.redis_url or services.running_redis(settings.data_dir.resolve() / "redis")
