"""Files and folders that only their owner may use, whatever the umask is."""

import os
import stat
from contextlib import suppress
from pathlib import Path
from typing import TextIO

PRIVATE_UMASK = 0o077
PRIVATE_FILE = 0o600
_PRIVATE_FOLDER, _PASSABLE_FOLDER = 0o700, 0o711


def private_folder(path: Path, mode: int = _PRIVATE_FOLDER) -> None:
    """Make a folder and its parents, or take the rights of others from one that exists.

    A folder that is shared (sticky) or belongs to another user is left as it is. Raises OSError.
    """
    if not path.parent.exists():
        private_folder(path.parent)
    path.mkdir(mode=mode, exist_ok=True)
    set_mode(path, mode)


def data_folder(path: Path) -> None:
    """The same for the data directory; when root runs a Postgres in it, its user may pass through.

    Raises OSError.
    """
    has_postgres = os.geteuid() == 0 and (path / "pg").is_dir()
    private_folder(path, _PASSABLE_FOLDER if has_postgres else _PRIVATE_FOLDER)
    private_files(path)


def private_files(folder: Path) -> None:
    """Take the rights of others from the files directly in a folder."""
    for path in folder.iterdir():
        with suppress(FileNotFoundError):  # removed meanwhile
            if path.is_file() and not path.is_symlink():
                set_mode(path, PRIVATE_FILE)


def open_private(path: Path) -> TextIO:
    """Open a file for writing that only its owner may read."""
    path.touch(mode=PRIVATE_FILE)
    set_mode(path, PRIVATE_FILE)
    return path.open("w", encoding="utf-8")


def set_mode(path: Path, mode: int) -> None:
    """Set the mode of a file or folder of this user, unless it is shared (sticky) or read-only."""
    status = path.stat()
    is_ours = status.st_uid == os.geteuid() and not status.st_mode & stat.S_ISVTX
    if is_ours and stat.S_IMODE(status.st_mode) != mode:
        with suppress(OSError):
            path.chmod(mode)
