"""An API under gunicorn, and clients that misuse its connections."""

import http.client
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any, Self

import psutil
import requests

from config.settings import Settings, environ_of
from orchestrator.local import processes
from tests.support.factories import KEY, eventually

_MAX_CLIENTS = 500  # until each process has one


@dataclass(frozen=True)
class ServedApi:
    """A process of `orchestrator api`."""

    port: int
    process: subprocess.Popen[bytes]

    @property
    def pid(self) -> int:
        """Of gunicorn's master process."""
        return self.process.pid

    @property
    def processes(self) -> list[int]:
        """The pids of those that serve requests."""
        return [each.pid for each in psutil.Process(self.pid).children()]

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.port}"

    def get(self, path: str, key: str = KEY, **headers: str) -> requests.Response:
        """One request on a connection of its own."""
        headers = {"Authorization": f"Bearer {key}", **headers}
        return requests.get(f"{self.url}{path}", headers=headers, timeout=30)

    def post(self, path: str, body: Any, key: str = KEY) -> requests.Response:
        """One request on a connection of its own."""
        headers = {"Authorization": f"Bearer {key}"}
        return requests.post(f"{self.url}{path}", json=body, headers=headers, timeout=30)

    def seconds_to_answer(self, path: str = "/healthz") -> float:
        """How long a request on a new connection takes; it succeeds."""
        began = time.monotonic()
        response = self.get(path)
        assert response.status_code == 200, response.text
        return time.monotonic() - began

    def send(self, data: bytes, receive_buffer: int | None = None) -> socket.socket:
        """A connection with this sent."""
        client = socket.socket()
        if receive_buffer:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        client.settimeout(30)
        client.connect(("127.0.0.1", self.port))
        client.sendall(data)
        return client

    @contextmanager
    def many(self, count: int, data: bytes) -> Iterator[list[socket.socket]]:
        """So many connections with this sent, open until the end of the block."""
        with ExitStack() as exits:
            yield [exits.enter_context(self.send(data)) for _ in range(count)]

    @contextmanager
    def one_of_each(self) -> Iterator[list["KeptClient"]]:
        """A client of each process, in the order of their pids."""
        clients: dict[int, KeptClient] = {}
        with ExitStack() as exits:
            for _ in range(_MAX_CLIENTS):
                client = exits.enter_context(KeptClient(self.port))
                assert client.ask("GET", "/healthz")[0] == 200
                clients.setdefault(self.process_of(client), client)
                if len(clients) == len(self.processes):
                    yield [clients[pid] for pid in sorted(clients)]
                    return
        raise AssertionError(f"{_MAX_CLIENTS} connections, all to {sorted(clients)}")

    def process_of(self, client: "KeptClient") -> int:
        """The pid of the process that has this connection."""
        port = client.sock.getsockname()[1]
        for pid in self.processes:
            connections = psutil.Process(pid).net_connections("tcp")
            if any(each.raddr and each.raddr.port == port for each in connections):
                return pid
        raise AssertionError("no process has this connection")


class KeptClient(http.client.HTTPConnection):
    """A client that has one connection for all of its requests."""

    def __init__(self, port: int) -> None:
        super().__init__("127.0.0.1", port, timeout=30)
        self.connect()
        self.auto_open = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def ask(
        self, method: str, path: str, body: Any = None, key: str = KEY, **headers: str
    ) -> tuple[int, Any]:
        """The status and the JSON of a request."""
        headers = {name.replace("_", "-"): value for name, value in headers.items()}
        headers |= {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
        self.request(method, path, None if body is None else json.dumps(body), headers)
        with self.getresponse() as answer:
            text = answer.read()
            return answer.status, json.loads(text) if text else None


@contextmanager
def serve(settings: Settings, **changes: Any) -> Iterator[ServedApi]:
    """The API under gunicorn, as `orchestrator api` starts it."""
    port = processes.free_port()
    command = [sys.executable, "-m", "orchestrator", "api", "--port", str(port)]
    environ = {**os.environ, **environ_of(replace(settings, **changes))}
    with subprocess.Popen(command, env=environ) as process:
        try:
            eventually(lambda: processes.port_error(port), within=30)
            api = ServedApi(port, process)
            api.seconds_to_answer()  # the worker has started
            yield api
        finally:
            processes.stop_process(process)


def head(method: str, path: str, **headers: str) -> bytes:
    """The head of a request."""
    lines = [f"{method} {path} HTTP/1.1", "Host: api"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def status_of(client: socket.socket) -> int:
    """The status of the next response, which is read; 0 for a connection that is closed."""
    response = http.client.HTTPResponse(client)
    try:
        response.begin()
        response.read()
    except (ConnectionResetError, http.client.RemoteDisconnected):
        return 0
    return response.status


def seconds_until_closed(client: socket.socket) -> float:
    """How long the connection stays open; at most 30 s."""
    began = time.monotonic()
    try:
        while client.recv(65536):
            pass
    except ConnectionResetError:
        pass
    return time.monotonic() - began
