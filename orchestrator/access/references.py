"""References to secrets, `secret://NAME`: stored and shown as such, resolved where they are used.

A name is looked up for the tenant of the run or webhook, which no reference can choose. What is
resolved is only what a caller wrote: text that comes from elsewhere, such as the result of a step,
may look like a reference and stays as it is.
"""

import pkgutil
import re
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote

from config.settings import PREFIX, Settings, secret_variables
from orchestrator.access.permissions import DEFAULT_TENANT
from orchestrator.sdk.masking import MIN_SECRET

SCHEME = "secret://"
MAX_SECRET = 64 * 1024  # bytes
_NAME = r"[A-Za-z][A-Za-z0-9_-]{0,99}"
REFERENCE = re.compile(rf"{SCHEME}(?P<name>{_NAME}(?![A-Za-z0-9_-]))?")
_MARK = re.compile(rf"{SCHEME}([0-9a-f]{{16}})/({_NAME})/")
_FOLDER = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")  # of a tenant; another name has none

Vault = Callable[[str, str], str | None]  # by tenant and name; None or LookupError: it has none


class VaultMissing(ValueError):
    """The setting of the vault names no function that can be imported."""


class SecretMissing(Exception):
    """There is no such secret, or it cannot be used; a later attempt would find the same."""


class SecretUnavailable(Exception):
    """The vault did not answer; a later attempt may succeed."""


@dataclass(frozen=True, kw_only=True)
class SecretSources:
    """Where the secrets of this deployment are: the first source that has a name counts."""

    variables: Mapping[str, str] = field(default_factory=dict, repr=False)  # of tenant `default`
    folder: Path | None = None
    vault: Vault | None = None

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """The sources of the settings. Raises VaultMissing."""
        return cls(
            variables=secret_variables(),
            folder=Path(settings.secrets_dir).expanduser() if settings.secrets_dir else None,
            vault=_load_vault(settings.secrets_vault) if settings.secrets_vault else None,
        )

    def read(self, tenant: str, name: str) -> str:
        """The secret of a tenant. Raises SecretMissing and SecretUnavailable."""
        variable = self.variables.get(name) if tenant == DEFAULT_TENANT else None
        folder = self.folder / tenant if self.folder and _FOLDER.fullmatch(tenant) else None
        value = self._find(variable, folder, tenant, name) if tenant else None
        if value is None:
            raise SecretMissing(f"{SCHEME}{name}: tenant {tenant!r} has no such secret here")
        return value

    def read_own(self, name: str) -> str:
        """A secret of the deployment itself, which no tenant can name. Raises as `read` does."""
        value = self._find(None, self.folder, "", name)
        if value is None:
            raise SecretMissing(f"{SCHEME}{name}: this deployment has no such secret of its own")
        return value

    def _find(
        self, variable: str | None, folder: Path | None, tenant: str, name: str
    ) -> str | None:
        """The secret in the first source that has it. Raises as `read` does."""
        value = variable
        if value is None and folder:
            value = _read_file(folder / name, name)
        if value is None and self.vault:
            value = _ask_vault(self.vault, tenant, name)
        if value is None:
            return None
        if len(value) < MIN_SECRET or len(value.encode(errors="replace")) > MAX_SECRET:
            raise SecretMissing(
                f"{SCHEME}{name}: a secret has at least {MIN_SECRET} characters, or it could not be"
                f" hidden in logs, and at most {MAX_SECRET:,} bytes"
            )
        return value


class Resolver:
    """Resolves the references of one attempt, or of one delivery."""

    def __init__(self, read: Callable[[str], str]) -> None:
        """`read` gives a secret by its name."""
        self._read = read
        self._values: dict[str, str] = {}
        self._nonce = ""  # in the marks, so that nobody else can write one

    @property
    def values(self) -> list[str]:
        """The secrets that it has read."""
        return list(self._values.values())

    def seal(self, document: Any) -> Any:
        """The JSON value with its references marked: `reveal` resolves these and no others.

        Raises SecretMissing for a reference without a valid name.
        """
        if SCHEME not in repr(document):  # nearly always, and much faster than a walk
            return document
        self._nonce = self._nonce or secrets.token_hex(8)
        return _change_texts(document, lambda text: REFERENCE.sub(self._mark, text))

    def reveal(self, document: Any) -> Any:
        """The JSON value with secrets where marks are.

        Raises SecretMissing for a mark that was changed, and as `SecretSources.read` does.
        """
        if not self._nonce:
            return document
        revealed = _change_texts(document, lambda text: _MARK.sub(self._unmark, text))
        if self._nonce in repr(revealed).lower():
            raise SecretMissing(
                f"a template has changed a reference ({SCHEME}…): its filters see no secret"
            )
        return revealed

    def resolve(self, url: str, *, quoted: bool = False) -> str:
        """The URL with its references resolved, `quoted` as parts of it. Raises as above."""

        def value(match: re.Match[str]) -> str:
            text = self._value(name_of(match))
            return quote(text, safe="") if quoted else text

        return REFERENCE.sub(value, url)

    def _mark(self, match: re.Match[str]) -> str:
        return f"{SCHEME}{self._nonce}/{name_of(match)}/"

    def _unmark(self, match: re.Match[str]) -> str:
        return self._value(match[2]) if match[1] == self._nonce else match[0]

    def _value(self, name: str) -> str:
        if name not in self._values:
            self._values[name] = self._read(name)
        return self._values[name]


def name_of(match: re.Match[str]) -> str:
    """The name in a match of REFERENCE. Raises SecretMissing if it is not valid."""
    if match["name"] is None:
        raise SecretMissing(
            f"{SCHEME} is followed by a name: a letter, then up to 99 letters, digits, _ and -"
        )
    return match["name"]


def _change_texts(value: Any, change: Callable[[str], str]) -> Any:
    if isinstance(value, dict):
        return {name: _change_texts(each, change) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_change_texts(each, change) for each in value]
    return change(value) if isinstance(value, str) and SCHEME in value else value


def _read_file(path: Path, name: str) -> str | None:
    """The text of a file without the newline at its end; None if there is none."""
    try:
        if not path.is_file():
            return None
        with path.open("rb") as file:
            text = file.read(MAX_SECRET + 3).decode()
    except (OSError, UnicodeDecodeError) as error:
        reason = "it is not UTF-8" if isinstance(error, UnicodeDecodeError) else error.strerror
        raise SecretMissing(f"{SCHEME}{name}: its file cannot be read: {reason}") from None
    return text.removesuffix("\n").removesuffix("\r")


def _ask_vault(vault: Vault, tenant: str, name: str) -> str | None:
    try:
        value = vault(tenant, name)
    except LookupError:
        return None
    except Exception as error:  # its text may have anything in it
        kind = type(error).__name__
        raise SecretUnavailable(f"{SCHEME}{name}: the vault failed with {kind}") from None
    if value is not None and not isinstance(value, str):
        raise SecretMissing(f"{SCHEME}{name}: the vault gave {type(value).__name__}, not a text")
    return value


def _load_vault(where: str) -> Vault:
    try:
        vault: Any = pkgutil.resolve_name(where)
    except Exception as error:  # whatever its module raises
        raise VaultMissing(f"{PREFIX}SECRETS_VAULT: {where!r} does not import: {error}") from error
    if not callable(vault):
        raise VaultMissing(f"{PREFIX}SECRETS_VAULT: {where!r} must be module:function")
    checked: Vault = vault
    return checked
