"""Which URLs and addresses deliveries may go to."""

from ipaddress import ip_address

import pytest

from orchestrator.notifications import targets
from orchestrator.notifications.targets import Target, TargetRefused

PRIVATE = [
    "0.0.0.0", "10.1.2.3", "100.64.0.1", "100.100.100.200", "127.0.0.1", "127.255.255.254",
    "169.254.169.254", "172.16.0.1", "172.31.255.255", "192.0.0.192", "192.0.2.1", "192.88.99.1",
    "192.168.1.1", "198.18.0.1", "198.51.100.1", "203.0.113.1", "224.0.0.1", "239.1.1.1",
    "240.0.0.1", "255.255.255.255", "168.63.129.16",
    "::", "::1", "::127.0.0.1", "::ffff:127.0.0.1", "::ffff:8.8.8.8", "::ffff:0:7f00:1",
    "64:ff9b::7f00:1", "64:ff9b::808:808", "64:ff9b:1::1", "100::1", "2001::1", "2001:db8::1",
    "2002:7f00:1::1", "3fff::1", "5f00::1", "fc00::1", "fd00:ec2::254", "fe80::1", "fec0::1",
    "ff02::1",
]  # fmt: skip
PUBLIC = ["1.1.1.1", "8.8.8.8", "93.184.216.34", "2606:4700:4700::1111", "2a00:1450:4001::200e"]


@pytest.mark.parametrize("address", PRIVATE)
def test_an_address_that_is_not_of_the_internet_is_refused(address: str) -> None:
    host = f"[{address}]" if ":" in address else address

    assert not targets.is_public(ip_address(address))
    with pytest.raises(TargetRefused, match="not an address of the public Internet"):
        targets.check_url(f"https://{host}/hook", allow_private=False)
    assert targets.check_url(f"https://{host}/hook", allow_private=True).host == address


@pytest.mark.parametrize("address", PUBLIC)
def test_an_address_of_the_internet_is_taken(address: str) -> None:
    host = f"[{address}]" if ":" in address else address

    assert targets.is_public(ip_address(address))
    assert targets.check_url(f"https://{host}/hook", allow_private=False).host == address


@pytest.mark.parametrize(
    "host",
    ["127.1", "0x7f000001", "2130706433", "017700000001", "0", "localhost", "LOCALHOST",
     "localhost.", "a.localhost", "metadata.google.internal", "printer.local"],
)  # fmt: skip
def test_another_way_to_write_an_address_of_this_network_is_refused(host: str) -> None:
    with pytest.raises(TargetRefused, match="not an address of the public Internet"):
        targets.check_url(f"http://{host}/", allow_private=False)


@pytest.mark.parametrize(
    ("url", "target"),
    [
        ("https://a.example", Target("https", "a.example", 443, "/")),
        ("HTTP://A.Example:8080/x/?y=%20z", Target("http", "a.example", 8080, "/x/?y=%20z")),
        ("https://xn--bcher-kva.example/", Target("https", "xn--bcher-kva.example", 443, "/")),
        ("https://a_b.example:65535/", Target("https", "a_b.example", 65535, "/")),
        ("http://[2606:4700::1]:81?q", Target("http", "2606:4700::1", 81, "/?q")),
    ],
)
def test_a_url_is_understood(url: str, target: Target) -> None:
    assert targets.check_url(url, allow_private=False) == target


@pytest.mark.parametrize(
    ("url", "header"),
    [
        ("https://a.example/", "a.example"),
        ("https://a.example:444/", "a.example:444"),
        ("http://[2606:4700::1]/", "[2606:4700::1]"),
        ("http://[2606:4700::1]:443/", "[2606:4700::1]:443"),
    ],
)
def test_the_host_is_named_as_http_does(url: str, header: str) -> None:
    assert targets.check_url(url, allow_private=False).host_header == header


@pytest.mark.parametrize(
    "url",
    [
        "", "x", "a.example/hook", "//a.example/", "ftp://a.example/", "file:///etc/passwd",
        "javascript:alert(1)", "http://", "http:///x", "http://:80/", "https://u:p@a.example/",
        "https://u@a.example/", "https://a.example@127.0.0.1/", "https://a.example:0/",
        "https://a.example:65536/", "https://a.example:-1/", "https://a.example:x/",
        "https://a.example/#part", "https://a..example/", "https://-a.example/", "https://[::1/",
        "https://[fe80::1%25eth0]/", "https://[v1.x]/", "https://a b/",
        "https://x[::1]/", "https://[a.example]/", "https://[::1]x/", "https://[1.1.1.1]/",
        "https://a.example/ x",
        "https://a.example/\r\nX-Y: z", "https://a.example/\x00", "https://a.example\\@b.example/",
        "https://b\u00fccher.example/", "https://\uff11\uff12\uff17.0.0.1/",
        "https://\u212aelvin.example/", f"https://a.example/{'x' * 2048}",
        f"https://{'a' * 64}.example/", "https://" + "a." * 130 + "example/",
    ],
)  # fmt: skip
@pytest.mark.parametrize("allow_private", [False, True])
def test_an_invalid_url_is_refused(url: str, allow_private: bool) -> None:
    with pytest.raises(TargetRefused):
        targets.check_url(url, allow_private=allow_private)


@pytest.mark.parametrize(
    "address", ["a@b.example", "first.last+tag@b.example", "o'neil@b.example", "root@localhost"]
)
def test_a_mail_address_is_taken(address: str) -> None:
    targets.check_mail_address(address)


@pytest.mark.parametrize(
    "address",
    [
        "", "a", "@b.example", "a@", "a@b@c.example", "a b@c.example", "a@b.example\n",
        "a@b.example\r\nBcc: all@b.example", "a@b.example, c@d.example", "A <a@b.example>",
        ".a@b.example", "a.@b.example", "a..b@c.example", "a@-b.example", "a@b..example",
        "\u00e9@b.example", "a@b\u00fc.example", f"{'a' * 65}@b.example", f"a@{'b.' * 127}example",
        '"a"@b.example', "a@[127.0.0.1]",
    ],
)  # fmt: skip
def test_an_invalid_mail_address_is_refused(address: str) -> None:
    with pytest.raises(TargetRefused, match="not a mail address"):
        targets.check_mail_address(address)


def test_a_name_is_looked_up_once_and_only_its_public_addresses_are_used() -> None:
    lookups: list[tuple[str, int]] = []

    def resolve(host: str, port: int) -> list[str]:
        lookups.append((host, port))
        return ["10.0.0.1", "93.184.216.34", "::ffff:127.0.0.1", "2606:4700::1"]

    target = targets.check_url("https://a.example/", allow_private=False)

    addresses = targets.resolve_public(target, allow_private=False, resolve=resolve)
    assert addresses == ["93.184.216.34", "2606:4700::1"]
    assert lookups == [("a.example", 443)]


def test_a_name_of_private_addresses_is_refused_unless_that_is_allowed() -> None:
    target = targets.check_url("https://a.example/", allow_private=False)

    with pytest.raises(TargetRefused, match=r"no address of the public Internet, but 10\.0\.0\.1"):
        targets.resolve_public(target, allow_private=False, resolve=lambda *_: ["10.0.0.1"])
    assert targets.resolve_public(target, allow_private=True, resolve=lambda *_: ["10.0.0.1"])
