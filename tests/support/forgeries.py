"""Signed values altered by somebody who has some of them, and what a genuine one opens."""

import base64
import json
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import requests

_INSERTED = ("=", "A", "!", ".", "/", "+", " ", "\n", "é", "\u200b", "\u0301", "%00", "%2e")
_LOOKALIKES = {
    **dict(zip("aceopxyABCEHKMOPTX", "асеорхуАВСЕНКМОРТХ", strict=True)),  # noqa: RUF001
    **{digit: chr(0xFF10 + int(digit)) for digit in "0123456789"},  # of full width
    "-": "\u2010", "_": "\uff3f", ".": "\u2024",
}  # fmt: skip
_SCHEDULES, _KEYS = "/api/v1/schedules", "/api/v1/keys"
_ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"


class Forger:
    """Makes values that are none of the genuine ones, of them and of others."""

    def __init__(
        self, genuine: Sequence[str], others: Sequence[str], chance: random.Random
    ) -> None:
        self._genuine, self._known, self._chance = genuine, (*genuine, *others), chance
        self._kinds = (
            self._flip, self._shorten, self._lengthen, self._insert, self._look_alike,
            self._respell, self._other_alphabet, self._other_case, self._mix, self._alter_content,
            self._replace,
        )  # fmt: skip

    def forge(self) -> str:
        """Another one; white space at its ends, which HTTP ignores, does not make it another."""
        while (forged := self._any()).strip() in self._genuine:
            pass
        return forged

    def _any(self) -> str:
        value = self._chance.choice(self._known)
        for _ in range(self._chance.choice((1, 1, 1, 2, 4))):
            value = self._chance.choice(self._kinds)(value) or value
        return value

    def _at(self, value: str) -> int:
        return self._chance.randrange(max(1, len(value)))

    def _flip(self, value: str) -> str:
        at = self._at(value)
        flipped = [chr(ord(each) ^ 1 << self._chance.randrange(7)) for each in value[at : at + 1]]
        return "".join((value[:at], *flipped, value[at + 1 :]))

    def _shorten(self, value: str) -> str:
        at = self._at(value)
        return self._chance.choice((value[:at], value[at:], value[:-1], value.rpartition(".")[0]))

    def _lengthen(self, value: str) -> str:
        rest = self._chance.choice((*_INSERTED, value, "." + value, "A" * 1000))
        return self._chance.choice((value + rest, rest + value))

    def _insert(self, value: str) -> str:
        at = self._at(value)
        return value[:at] + self._chance.choice(_INSERTED) + value[at:]

    def _look_alike(self, value: str) -> str:
        at = self._at(value)
        return value[:at] + "".join(_LOOKALIKES.get(c, c) for c in value[at:])

    def _respell(self, value: str) -> str:
        """Other last bits in a part, which base64 ignores."""
        parts = value.split(".")
        at = self._chance.randrange(len(parts))
        if parts[at] and parts[at][-1] in _ALPHABET:
            number = _ALPHABET.index(parts[at][-1]) ^ self._chance.randint(1, 3)
            parts[at] = parts[at][:-1] + _ALPHABET[number]
        return ".".join(parts)

    def _other_alphabet(self, value: str) -> str:
        return value.replace("-", "+").replace("_", "/")

    def _other_case(self, value: str) -> str:
        at = self._at(value)
        return self._chance.choice((value.upper(), value[:at] + value[at:].swapcase()))

    def _mix(self, value: str) -> str:
        """Parts of several genuine ones."""
        several = [each.split(".") for each in (value, *self._known)]
        return ".".join(
            self._chance.choice([each[at] for each in several if len(each) > at])
            for at in range(len(several[0]))
        )

    def _alter_content(self, value: str) -> str:
        """A part of JSON with another member, under the old signature."""
        parts = value.split(".")
        at = self._chance.randrange(len(parts))
        try:
            content = json.loads(base64.urlsafe_b64decode(parts[at] + "=" * (-len(parts[at]) % 4)))
        except ValueError:
            return value
        parts[at] = _encoded(self._altered(content))
        return ".".join(parts)

    def _altered(self, content: object) -> object:
        if isinstance(content, list):
            return self._chance.choice((content[::-1], content[:1], content * 2, []))
        changes = (
            {"alg": "none"},
            {"exp": 2**40},
            {"scopes": None},
            {"sub": None},
            {"kid": "../x"},
        )
        return {**content, **self._chance.choice(changes)} if isinstance(content, dict) else content

    def _replace(self, value: str) -> str:
        """One of the same form, made of nothing."""
        return "".join(self._chance.choice("0a") if c.isalnum() else c for c in value)


def _encoded(content: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(content).encode()).decode().rstrip("=")


@dataclass(frozen=True)
class Lock:
    """What some signed values open, others of the same kind, and the request with any value."""

    genuine: Sequence[str]
    others: Sequence[str]
    ask: Callable[[str], requests.Response]

    def opens(self, value: str) -> bool:
        """Whether the request is served with this value; it is refused for no other reason."""
        response = self.ask(value)
        assert response.status_code < 500, (value, response.text)
        assert response.status_code not in (408, 429), response.text
        return response.ok and "error" not in response.text[:20]  # Mage answers errors with 200

    def forgeries(self, count: int, chance: random.Random) -> Iterator[str]:
        """So many values that must not open it."""
        forger = Forger(self.genuine, self.others, chance)
        yield from self.others
        for _ in range(count - len(self.others)):
            yield forger.forge()


def locks(url: str, key: str, workflow: str, run_id: str) -> dict[str, Lock]:
    """All that is opened by what is signed, of an API with a run that has saved two files."""
    with_key = {"Authorization": f"Bearer {key}"}
    session = requests.Session()

    def send(method: str, path: str, headers: Any = None, **options: Any) -> requests.Response:
        return session.request(method, f"{url}{path}", headers=headers, timeout=30, **options)

    def make(path: str, body: Any) -> Any:
        return send("POST", path, with_key, json=body).json()

    def bearer(method: str, path: str) -> Callable[[str], requests.Response]:
        return lambda token: send(method, path, {"Authorization": _bearer(token)})

    def at(path: str) -> Callable[[str], requests.Response]:
        return lambda token: send("POST", f"{path}/{quote(token, safe='')}", json={})

    files = send("GET", f"/api/v1/runs/{run_id}/artifacts", with_key).json()["items"]
    addresses = [each["url"].partition("?token=") for each in files[:2]]
    (path, _, address), (_, _, other_address) = addresses
    one, another = (make(_SCHEDULES, {"workflow": workflow, "type": "api"}) for _ in range(2))
    triggers = [one["token"]], [another["token"], one["id"], "0" * 32]
    tokens = []
    for name in ("forger", "another"):
        oauth_client = make(_KEYS, {"name": name, "role": "viewer", "kind": "oauth_client"})
        grant = {each: oauth_client[each] for each in ("client_id", "client_secret")}
        grant["grant_type"] = "client_credentials"
        tokens.append(send("POST", "/oauth/token", data=grant).json()["access_token"])
    mage = f"/api/pipeline_schedules/{one['number']}"
    return {
        "address of a file": Lock(
            [address],
            [other_address, tokens[0]],
            lambda each: send("GET", path, params={"token": each}),
        ),
        "trigger": Lock(*triggers, at(f"{_SCHEDULES}/{one['id']}/trigger")),
        "trigger of Mage": Lock(*triggers, at(f"{mage}/pipeline_runs")),
        "trigger of Mage by header": Lock(*triggers, bearer("POST", f"{mage}/api_trigger")),
        "token": Lock(tokens, [address, another["token"]], bearer("GET", "/api/v1/runs")),
        "key": Lock([key], [tokens[0][::-1], another["token"]], bearer("GET", "/api/v1/runs")),
    }


def _bearer(token: str) -> bytes:
    return b"Bearer " + token.replace("\r", "\t").replace("\n", "\t").encode()
