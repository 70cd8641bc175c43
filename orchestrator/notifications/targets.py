"""Which URLs, mail addresses and network addresses requests may go to (SSRF protection).

Tenants choose the URLs of their receivers, and of the requests that their steps make, so a URL may
point into the deployment's own network.
The host is resolved once, and the connection goes to an address that was checked: DNS rebinding
has no effect.
"""

import re
import socket
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from urllib.parse import urlsplit

MAX_URL_LENGTH = 2048  # characters of a URL
_LOOKUP_SECONDS = 3.0  # the system's own resolver may take half a minute
_PORTS = {"http": 80, "https": 443}
_URL = re.compile(r"[!#-;=?-\[\]_a-z~]+")  # the characters of RFC 3986
_AUTHORITY = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^\[\]:@]+)(:[0-9]*)?")
_LABEL = r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_NAME = re.compile(rf"(?=.{{1,253}}\Z){_LABEL}(\.{_LABEL})*\.?\Z")
_ATOM = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+"
_MAIL = re.compile(rf"(?=.{{3,254}}\Z){_ATOM}(\.{_ATOM})*@{_LABEL}(\.{_LABEL})*\Z")
# Not private by IANA's registries, but not addresses of receivers either.
_EXCLUDED: Sequence[IPv4Network | IPv6Network] = (
    IPv4Network("192.0.0.0/24"),  # protocol assignments; a cloud's metadata is at 192.0.0.192
    IPv4Network("192.88.99.0/24"),  # 6to4 relays
    IPv4Network("168.63.129.16/32"),  # a cloud's platform, reachable from each of its machines
    IPv6Network("2001::/23"),  # Teredo
    IPv6Network("2001:db8::/32"),  # examples
    IPv6Network("2002::/16"),  # 6to4
    IPv6Network("3fff::/20"),  # examples
)
# The global unicast range of IPv6; mapped, translated and local addresses are outside of it.
_UNICAST_V6 = IPv6Network("2000::/3")

Resolve = Callable[[str, int], list[str]]


class TargetRefused(ValueError):
    """A target that requests may not go to; the text names the reason and the remedy."""


@dataclass(frozen=True)
class Target:
    """A parsed URL."""

    scheme: str
    host: str  # a name or an address, without brackets
    port: int
    path: str  # with its query

    @property
    def host_header(self) -> str:
        """The value of the `Host` header."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORTS[self.scheme] else f"{host}:{self.port}"


def check_url(
    url: str,
    *,
    allow_private: bool,
    setting: str = "ORCHESTRATOR_ALLOW_PRIVATE_TARGETS",
    max_length: int = MAX_URL_LENGTH,
) -> Target:
    """Parse a URL. Raises TargetRefused for one that requests may not go to.

    `setting` is the one that would allow private targets, for the message.
    """
    if len(url) > max_length:
        raise TargetRefused(f"longer than {max_length:,} characters")
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
    if not _AUTHORITY.fullmatch(parts.netloc) or (literal is None and not _NAME.match(host)):
        raise TargetRefused(f"{host!r} is neither a host's name nor an address")
    if not allow_private and not _is_public_host(host, literal):
        raise TargetRefused(
            f"{host} is not an address of the public Internet; {setting}=1 would allow it"
        )
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return Target(parts.scheme, host, port or _PORTS[parts.scheme], path)


def check_mail_address(address: str) -> None:
    """Check a mail address. Raises TargetRefused for an invalid one."""
    if not _MAIL.match(address) or len(address.partition("@")[0]) > 64:
        raise TargetRefused("not a mail address; write name@example.com, in ASCII")


def resolve_public(
    target: Target,
    *,
    allow_private: bool,
    resolve: Resolve | None = None,
    within: float = _LOOKUP_SECONDS,
) -> list[str]:
    """Resolve a target once; gives the addresses that a connection may go to.

    Raises TargetRefused if none is public, OSError if the name cannot be resolved.
    """
    resolve = resolve or partial(resolve_host, within=within)
    addresses = resolve(target.host, target.port)
    allowed = [each for each in addresses if allow_private or is_public(ip_address(each))]
    if not allowed:
        others = ", ".join(addresses) or "none"
        raise TargetRefused(f"{target.host} has no address of the public Internet, but {others}")
    return allowed


def resolve_host(host: str, port: int, within: float = _LOOKUP_SECONDS) -> list[str]:
    """The addresses of a host. Raises OSError without a result within three seconds, at most."""
    within = min(within, _LOOKUP_SECONDS)
    answer: Future[list[str]] = Future()

    def look_up() -> None:
        try:
            records = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            answer.set_result(list(dict.fromkeys(str(record[4][0]) for record in records)))
        except (OSError, UnicodeError) as error:  # UnicodeError: a label that IDNA refuses
            answer.set_exception(OSError(f"{host} cannot be looked up: {error}"))

    # The system's call has no timeout; an abandoned thread ends when it returns.
    threading.Thread(target=look_up, name="look-up", daemon=True).start()
    try:
        return answer.result(within)
    except TimeoutError:
        raise OSError(f"{host} cannot be looked up within {within:g} s") from None


def is_public(address: IPv4Address | IPv6Address) -> bool:
    """Whether it is a unicast address of the public Internet."""
    unicast = not address.is_multicast if address.version == 4 else address in _UNICAST_V6
    return unicast and address.is_global and not any(address in each for each in _EXCLUDED)


def _is_public_host(host: str, literal: str | None) -> bool:
    if literal is not None:
        return is_public(ip_address(literal))
    name = host.rstrip(".")
    return name != "localhost" and not name.endswith((".localhost", ".local", ".internal"))


def _literal(host: str) -> str | None:
    """The address that a host spells, also in old forms (`127.1`, `0x7f000001`); None: a name."""
    try:
        (answer, *_) = socket.getaddrinfo(host, 0, flags=socket.AI_NUMERICHOST)
    except (OSError, UnicodeError):
        return None
    return str(answer[4][0])
