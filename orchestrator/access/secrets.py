"""The two secrets of a deployment: from the settings, else generated and stored in its data."""

import os
from contextlib import suppress
from functools import partial
from pathlib import Path

from config.folders import PRIVATE_FILE, data_folder, set_mode
from config.settings import MIN_KEY_LENGTHS, Settings
from orchestrator.access.keys import new_secret
from orchestrator.errors import Unavailable

_FILES = {"admin_key": "admin.key", "secret_key": "secret.key"}


def admin_key(settings: Settings) -> str:
    """The first key of the tenant `default`: the setting, else generated and stored."""
    return settings.admin_key or _stored(settings, "admin_key")


def known_admin_key(settings: Settings) -> str:
    """The admin key if there is one already, else the empty string."""
    path = settings.data_dir / _FILES["admin_key"]
    return settings.admin_key or (_read(path) if path.exists() else "")


def secret_key(settings: Settings) -> str:
    """The key that signs tokens and addresses: the setting, else generated and stored."""
    return settings.secret_key or _stored(settings, "secret_key")


def _stored(settings: Settings, name: str) -> str:
    """The key in its file, which is made first. Raises Unavailable for a short one."""
    data_folder(settings.data_dir)
    path = settings.data_dir / _FILES[name]
    with suppress(FileExistsError), open(path, "x", opener=partial(os.open, mode=0o600)) as file:
        file.write(new_secret())
    set_mode(path, PRIVATE_FILE)
    key = _read(path)
    if len(key) < MIN_KEY_LENGTHS[name]:
        raise Unavailable(
            f"{path} must have a key of at least {MIN_KEY_LENGTHS[name]} characters;"
            " without this file a new one is made"
        )
    return key


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace").strip()
