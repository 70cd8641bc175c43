"""The two secrets that a deployment has: from the settings, else made once and kept in its data."""

import os

from config.settings import Settings
from orchestrator.access.keys import new_secret

_ADMIN_KEY, _SECRET_KEY = "admin.key", "secret.key"


def admin_key(settings: Settings) -> str:
    """The first key of the tenant `default`: the setting, else one made and kept in the data."""
    return settings.admin_key or _kept(settings, _ADMIN_KEY)


def known_admin_key(settings: Settings) -> str:
    """The admin key if there is one already, else nothing."""
    kept = settings.data_dir / _ADMIN_KEY
    return settings.admin_key or (kept.read_text().strip() if kept.exists() else "")


def secret_key(settings: Settings) -> str:
    """What tokens and addresses are signed with: the setting, else one made and kept."""
    return settings.secret_key or _kept(settings, _SECRET_KEY)


def _kept(settings: Settings, name: str) -> str:
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    kept = settings.data_dir / name
    try:
        with os.fdopen(os.open(kept, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w") as file:
            file.write(new_secret())
    except FileExistsError:
        pass
    return kept.read_text().strip()
