"""Where deliveries may go: URLs and mail addresses, and which addresses of the network.

A receiver is named by a tenant, so its URL may try to reach what only this machine can reach. The
name is looked up once, and the connection goes to an address that was checked: a name that changes
its mind between the two gains nothing.
"""

import re
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from queue import Empty, Queue
from urllib.parse import urlsplit

MAX_URL_LENGTH = 2048  # characters of a URL
_LOOKUP = 3.0  # seconds for a name; the system's own resolver may take half a minute
_PORTS = {"http": 80, "https": 443}
_URL = re.compile(r"[!#-;=?-\[\]_a-z~]+")  # the characters of RFC 3986
_PLACE = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^\[\]:@]+)(:[0-9]*)?")
_LABEL = r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_NAME = re.compile(rf"(?=.{{1,253}}\Z){_LABEL}(\.{_LABEL})*\.?\Z")
_ATOM = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+"
_MAIL = re.compile(rf"(?=.{{3,254}}\Z){_ATOM}(\.{_ATOM})*@{_LABEL}(\.{_LABEL})*\Z")
# Not private by the registries, and yet nobody's receiver.
_NEVER_V4 = tuple(
    IPv4Network(each)
    for each in (
        "192.0.0.0/24",  # protocol assignments; a cloud's metadata is at 192.0.0.192
        "192.88.99.0/24",  # 6to4 relays
        "168.63.129.16/32",  # a cloud's platform, inside of each of its machines
    )
)
# Of IPv6 only this is unicast of the whole Internet: mapped, translated and local are outside.
_UNICAST_V6 = IPv6Network("2000::/3")
_NEVER_V6 = tuple(
    IPv6Network(each)
    for each in ("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20")  # Teredo, 6to4, examples
)

Resolve = Callable[[str, int], list[str]]


class TargetRefused(ValueError):
    """A target that nothing is sent to; the text says why, and what would be right."""


@dataclass(frozen=True)
class Target:
    """A URL that was understood."""

    scheme: str
    host: str  # a name or an address, without brackets
    port: int
    path: str  # with its query

    @property
    def host_header(self) -> str:
        """The host as HTTP names it."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORTS[self.scheme] else f"{host}:{self.port}"


def check_url(url: str, *, allow_private: bool) -> Target:
    """Understand a URL. Raises Refused for one that nothing may ever be sent to."""
    if len(url) > MAX_URL_LENGTH:
        raise TargetRefused(f"longer than {MAX_URL_LENGTH:,} characters")
    if not _URL.fullmatch(url):
        raise TargetRefused("write it in ASCII, with other characters as %XX and names as xn--…")
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        raise TargetRefused(
            "not a URL; write https://host[:port]/path, with a port up to 65535"
        ) from None
    if parts.scheme not in _PORTS:
        raise TargetRefused("a URL must begin with https:// or http://")
    if "@" in parts.netloc:
        raise TargetRefused(
            "no user name or password may stand in the URL; check the signature instead"
        )
    if parts.fragment:
        raise TargetRefused("a fragment (#…) is never sent; leave it out")
    if port == 0:
        raise TargetRefused("a port is a number from 1 to 65535")
    literal = _literal(host)
    if not _PLACE.fullmatch(parts.netloc) or (literal is None and not _NAME.match(host)):
        raise TargetRefused(f"{host!r} is neither a host's name nor an address")
    if not allow_private and not _may_be(host, literal):
        raise TargetRefused(
            f"{host} is not an address of the public Internet; ORCHESTRATOR_ALLOW_PRIVATE_TARGETS=1"
            " would allow it"
        )
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return Target(parts.scheme, host, port or _PORTS[parts.scheme], path)


def check_mail_address(address: str) -> str:
    """A mail address as it is sent to. Raises Refused for one that is none."""
    if not _MAIL.match(address) or len(address.partition("@")[0]) > 64:
        raise TargetRefused("not a mail address; write name@example.com, in ASCII")
    return address


def resolve_public(
    target: Target, *, allow_private: bool, resolve: Resolve | None = None
) -> list[str]:
    """The addresses of a target that may be connected to, looked up once.

    Raises Refused if it has none of the public Internet, OSError if it has none at all.
    """
    found = (resolve or resolve_host)(target.host, target.port)
    allowed = [each for each in found if allow_private or is_public(ip_address(each))]
    if not allowed:
        raise TargetRefused(
            f"{target.host} has no address of the public Internet, but {', '.join(found) or 'none'}"
        )
    return allowed


def resolve_host(host: str, port: int) -> list[str]:
    """The addresses that a name has. Raises OSError if there are none within three seconds."""
    answers: Queue[list[str] | OSError] = Queue()

    def ask() -> None:
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            answers.put(list(dict.fromkeys(str(each[4][0]) for each in found)))
        except (OSError, UnicodeError) as error:  # UnicodeError: a label that IDNA refuses
            answers.put(OSError(f"{host} cannot be looked up: {error}"))

    # The system's call cannot be told to hurry; a thread that is left behind ends with it.
    threading.Thread(target=ask, name="look-up", daemon=True).start()
    try:
        answer = answers.get(timeout=_LOOKUP)
    except Empty:
        raise OSError(f"{host} cannot be looked up within {_LOOKUP:g} s") from None
    if isinstance(answer, OSError):
        raise answer
    return answer


def is_public(address: IPv4Address | IPv6Address) -> bool:
    """Whether it is an address of one machine on the public Internet."""
    if isinstance(address, IPv4Address):
        bad = address.is_multicast or any(address in network for network in _NEVER_V4)
        return address.is_global and not bad
    bad = any(address in network for network in _NEVER_V6)
    return address in _UNICAST_V6 and address.is_global and not bad


def _may_be(host: str, literal: str | None) -> bool:
    if literal is not None:
        return is_public(ip_address(literal))
    name = host.rstrip(".")
    return name != "localhost" and not name.endswith((".localhost", ".local", ".internal"))


def _literal(host: str) -> str | None:
    """The address that a host is, in any of the old ways to write one (`127.1`, `0x7f000001`)."""
    try:
        (answer, *_) = socket.getaddrinfo(host, 0, flags=socket.AI_NUMERICHOST)
    except (OSError, UnicodeError):
        return None
    return str(answer[4][0])
