"""Receivers of webhooks on loopback: real servers that say what a test wants, and remember."""

import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import standardwebhooks


@dataclass(frozen=True)
class Heard:
    """One request."""

    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def id(self) -> str:
        """Of the message."""
        return self.headers["webhook-id"]

    def is_signed_by(self, secret: str) -> bool:
        """Whether the library of the standard takes it for ours."""
        try:
            standardwebhooks.Webhook(secret).verify(self.body, self.headers)
        except standardwebhooks.WebhookVerificationError:
            return False
        return True


@dataclass
class Receiver:
    """Where it listens, and what it has heard."""

    url: str
    heard: list[Heard] = field(default_factory=list)


Answers = Callable[[int], tuple[int, dict[str, str]]]  # status and headers, by the how manieth


@contextmanager
def answering(*statuses: int, headers: dict[str, str] | None = None) -> Iterator[Receiver]:
    """A receiver that gives these statuses one after the other, and the last one for ever."""
    with answering_by(lambda nth: (statuses[min(nth, len(statuses)) - 1], headers or {})) as made:
        yield made


@contextmanager
def answering_by(answers: Answers) -> Iterator[Receiver]:
    """A receiver whose answer is computed."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            length = int(self.headers["Content-Length"])
            told = {name.lower(): value for name, value in self.headers.items()}
            receiver.heard.append(Heard(self.path, told, self.rfile.read(length)))
            status, more = answers(len(receiver.heard))
            self.send_response(status)
            for name, value in {"Content-Length": "0", **more}.items():
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
def dripping(said: Sequence[bytes] = (), every: float = 0.05) -> Iterator[Receiver]:
    """A receiver that takes connections, says so much so slowly, and then nothing more."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=50)
    receiver = Receiver(f"http://127.0.0.1:{listener.getsockname()[1]}/hook")
    over, lines = threading.Event(), []

    def drip(line: socket.socket) -> None:
        with line:
            for piece in said:
                if over.wait(every):
                    return
                try:
                    line.sendall(piece)
                except OSError:
                    return
            over.wait()

    def listen() -> None:
        while True:
            try:
                line, _ = listener.accept()
            except OSError:
                return
            receiver.heard.append(Heard("", {}, b""))
            lines.append(threading.Thread(target=drip, args=(line,)))
            lines[-1].start()

    listening = threading.Thread(target=listen)
    listening.start()
    try:
        yield receiver
    finally:
        over.set()
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        for thread in (listening, *lines):
            thread.join()
