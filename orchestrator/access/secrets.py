"""The two secrets of a deployment: from the settings, else generated and stored in its data."""

import os
from contextlib import suppress
from functools import partial
from pathlib import Path

from config.settings import Settings
from orchestrator.access.keys import new_secret

_ADMIN_KEY, _SECRET_KEY = "admin.key", "secret.key"


def admin_key(settings: Settings) -> str:
    """The first key of the tenant `default`: the setting, else generated and stored."""
    return settings.admin_key or _stored(settings, _ADMIN_KEY)


def known_admin_key(settings: Settings) -> str:
    """The admin key if there is one already, else the empty string."""
    path = settings.data_dir / _ADMIN_KEY
    return settings.admin_key or (_read(path) if path.exists() else "")


def secret_key(settings: Settings) -> str:
    """The key that signs tokens and addresses: the setting, else generated and stored."""
    return settings.secret_key or _stored(settings, _SECRET_KEY)


def _stored(settings: Settings, name: str) -> str:
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    path = settings.data_dir / name
    with suppress(FileExistsError), open(path, "x", opener=partial(os.open, mode=0o600)) as file:
        file.write(new_secret())
    return _read(path)


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace").strip()
