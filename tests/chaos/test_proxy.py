"""The faults of the proxy."""

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
        while data := self.request.recv(1024):
            self.request.sendall(data)


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    """In front of an echo service."""
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), _Echo) as service:
        threading.Thread(target=service.serve_forever, args=(0.02,), daemon=True).start()
        proxy = Proxy(service.server_address[1])
        yield proxy
        proxy.end()
        service.shutdown()


def _connect(proxy: Proxy) -> socket.socket:
    return socket.create_connection(("127.0.0.1", proxy.port), timeout=5)


def _echo(client: socket.socket, data: bytes) -> bytes:
    client.sendall(data)
    return client.recv(1024)


def test_it_forwards(proxy: Proxy) -> None:
    with _connect(proxy) as client:
        assert _echo(client, b"one") == b"one"
        assert _echo(client, b"two") == b"two"


def test_data_before_the_service_is_connected_is_forwarded(
    proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    reach = proxy.to_service

    async def late(side: Side) -> None:
        await asyncio.sleep(0.2)  # a slow connection
        await reach(side)

    monkeypatch.setattr(proxy, "to_service", late)
    with _connect(proxy) as client:
        assert _echo(client, b"one") == b"one"


def test_a_dropped_connection_stays_open_and_silent(proxy: Proxy) -> None:
    with _connect(proxy) as before, _connect(proxy) as after:
        assert _echo(before, b"one") == b"one"
        proxy.drop()
        before.settimeout(0.2)
        with pytest.raises(TimeoutError):
            _echo(before, b"two")
        proxy.pass_on()

        with pytest.raises(TimeoutError):
            _echo(before, b"three")
        after.close()
        with _connect(proxy) as new:
            assert _echo(new, b"four") == b"four"


def test_a_delay_keeps_the_order(proxy: Proxy) -> None:
    with _connect(proxy) as client:
        assert _echo(client, b"0") == b"0"
        proxy.delay = 0.1
        began = time.monotonic()
        for number in range(50):
            client.sendall(b"%d," % number)
        received = b""
        while received.count(b",") < 50:
            received += client.recv(1024)

        assert received == b"".join(b"%d," % number for number in range(50))
        assert time.monotonic() - began >= 0.2


def test_a_half_close_sends_eof_to_the_client(proxy: Proxy) -> None:
    with _connect(proxy) as client:
        assert _echo(client, b"one") == b"one"
        proxy.half_close()

        assert client.recv(1) == b""
        client.sendall(b"it still receives")


def test_reset_and_refusal_are_errors(proxy: Proxy) -> None:
    with _connect(proxy) as client:
        assert _echo(client, b"one") == b"one"
        proxy.reset()
        with pytest.raises(ConnectionError):
            _echo(client, b"two")
    proxy.refuse()
    with pytest.raises(ConnectionError):
        _connect(proxy)
    proxy.pass_on()
    with _connect(proxy) as client:
        assert _echo(client, b"three") == b"three"


def test_a_connection_just_before_a_refusal_is_reset(proxy: Proxy) -> None:
    proxy.block(0.3)  # the client connects meanwhile
    with _connect(proxy) as client:
        proxy.refuse()
        with pytest.raises(ConnectionError):
            _echo(client, b"one")
