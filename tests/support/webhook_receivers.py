"""Webhook receivers on loopback: real servers with scripted responses, which record requests."""

import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import standardwebhooks


@dataclass(frozen=True)
class ReceivedRequest:
    """One request."""

    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def id(self) -> str:
        """The id of the message."""
        return self.headers["webhook-id"]

    def is_signed_by(self, secret: str) -> bool:
        """Whether the signature is valid, by the reference library of Standard Webhooks."""
        try:
            standardwebhooks.Webhook(secret).verify(self.body, self.headers)
        except standardwebhooks.WebhookVerificationError:
            return False
        return True


@dataclass
class Receiver:
    """The URL of a receiver, and its requests."""

    url: str
    requests: list[ReceivedRequest] = field(default_factory=list)


# Status and headers of the response, by the number of the request, from 1.
Respond = Callable[[int], tuple[int, dict[str, str]]]


@contextmanager
def answering(*statuses: int, headers: dict[str, str] | None = None) -> Iterator[Receiver]:
    """A receiver that responds with these statuses in turn, then with the last one always."""
    with answering_by(lambda n: (statuses[min(n, len(statuses)) - 1], headers or {})) as receiver:
        yield receiver


@contextmanager
def answering_by(respond: Respond) -> Iterator[Receiver]:
    """A receiver whose response is computed."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            length = int(self.headers["Content-Length"])
            headers = {name.lower(): value for name, value in self.headers.items()}
            receiver.requests.append(ReceivedRequest(self.path, headers, self.rfile.read(length)))
            status, extra = respond(len(receiver.requests))
            self.send_response(status)
            for name, value in {"Content-Length": "0", **extra}.items():
                self.send_header(name, value)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    receiver = Receiver(f"http://127.0.0.1:{server.server_port}/hook")
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield receiver
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def dripping(pieces: Sequence[bytes] = (), every: float = 0.05) -> Iterator[Receiver]:
    """A receiver that accepts connections, sends the pieces slowly, and then nothing more."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=50)
    receiver = Receiver(f"http://127.0.0.1:{listener.getsockname()[1]}/hook")
    over, threads = threading.Event(), []

    def drip(connection: socket.socket) -> None:
        with connection:
            for piece in pieces:
                if over.wait(every):
                    return
                try:
                    connection.sendall(piece)
                except OSError:
                    return
            over.wait()

    def listen() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            receiver.requests.append(ReceivedRequest("", {}, b""))
            threads.append(threading.Thread(target=drip, args=(connection,)))
            threads[-1].start()

    listening = threading.Thread(target=listen)
    listening.start()
    try:
        yield receiver
    finally:
        over.set()
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        for thread in (listening, *threads):
            thread.join()
