"""The proxy does to a connection what it is told to."""

import asyncio
import socket
import socketserver
import threading
import time
from collections.abc import Iterator

import pytest

from tests.chaos.proxy import Proxy, Side


class _Echo(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        while said := self.request.recv(1024):
            self.request.sendall(said)


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    """In front of a service that says what it is told."""
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), _Echo) as service:
        threading.Thread(target=service.serve_forever, args=(0.02,), daemon=True).start()
        proxy = Proxy(service.server_address[1])
        yield proxy
        proxy.end()
        service.shutdown()


def _call(proxy: Proxy) -> socket.socket:
    return socket.create_connection(("127.0.0.1", proxy.port), timeout=5)


def _says(caller: socket.socket, said: bytes) -> bytes:
    caller.sendall(said)
    return caller.recv(1024)


def test_it_passes_on_what_is_said(proxy: Proxy) -> None:
    with _call(proxy) as caller:
        assert _says(caller, b"one") == b"one"
        assert _says(caller, b"two") == b"two"


def test_what_is_said_before_the_service_is_reached_is_passed_on_too(
    proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    reach = proxy.to_service

    async def late(side: Side) -> None:
        await asyncio.sleep(0.2)  # the service takes a while
        await reach(side)

    monkeypatch.setattr(proxy, "to_service", late)
    with _call(proxy) as caller:
        assert _says(caller, b"one") == b"one"


def test_a_connection_of_the_silence_stays_open_and_dead(proxy: Proxy) -> None:
    with _call(proxy) as before, _call(proxy) as after:
        assert _says(before, b"one") == b"one"
        proxy.drop()
        before.settimeout(0.2)
        with pytest.raises(TimeoutError):
            _says(before, b"two")
        proxy.pass_on()

        with pytest.raises(TimeoutError):
            _says(before, b"three")
        after.close()
        with _call(proxy) as new:
            assert _says(new, b"four") == b"four"


def test_a_delay_keeps_the_order(proxy: Proxy) -> None:
    with _call(proxy) as caller:
        assert _says(caller, b"0") == b"0"
        proxy.delay = 0.1
        asked = time.monotonic()
        for number in range(50):
            caller.sendall(b"%d," % number)
        heard = b""
        while heard.count(b",") < 50:
            heard += caller.recv(1024)

        assert heard == b"".join(b"%d," % number for number in range(50))
        assert time.monotonic() - asked >= 0.2


def test_half_a_close_ends_what_the_caller_hears(proxy: Proxy) -> None:
    with _call(proxy) as caller:
        assert _says(caller, b"one") == b"one"
        proxy.half_close()

        assert caller.recv(1) == b""
        caller.sendall(b"it takes what is said still")


def test_who_is_reset_or_refused_is_told(proxy: Proxy) -> None:
    with _call(proxy) as caller:
        assert _says(caller, b"one") == b"one"
        proxy.reset()
        with pytest.raises(ConnectionError):
            _says(caller, b"two")
    proxy.refuse()
    with pytest.raises(ConnectionError):
        _call(proxy)
    proxy.pass_on()
    with _call(proxy) as caller:
        assert _says(caller, b"three") == b"three"


def test_who_has_come_just_before_it_refuses_is_told(proxy: Proxy) -> None:
    proxy.hold(0.3)  # somebody comes meanwhile
    with _call(proxy) as caller:
        proxy.refuse()
        with pytest.raises(ConnectionError):
            _says(caller, b"one")
