"""WSGI middleware: each request waits for its turn, and pauses while it only waits.

Whose a request is must be known before its key is checked, or refusing would cost as much as
serving: who was authenticated lately is recognised by the credentials, others by their address.
"""

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from hashlib import sha256
from typing import Any

from flask import request
from werkzeug.exceptions import TooManyRequests

from api.capacity.shares import Party, Shares
from api.capacity.turns import Turns, refusal
from orchestrator.errors import Unavailable
from orchestrator.work_limits import begin_turn

Environ = dict[str, Any]
Refusal = TooManyRequests | Unavailable
Application = Callable[[Environ, Any], Iterable[bytes]]

_TICKET = "orchestrator.ticket"
_KEY = "orchestrator.key"  # read by config/gunicorn.py
_ALWAYS_OPEN = "/healthz"
# Headers that have a key in one of the APIs.
_CREDENTIALS = (
    "HTTP_AUTHORIZATION", "HTTP_X_API_KEY", "HTTP_OAUTH_TOKEN", "HTTP_X_ODSL_KEY", "HTTP_COOKIE"
)  # fmt: skip
_MAX_PARTIES = 10_000  # whose credentials are recognised
_MAX_POLLS = 200  # a second, of all waiting requests


class Gate:
    """Limits of what is in work and open, for one API process."""

    def __init__(
        self,
        inner: Application,
        refuse: Callable[[Environ, Refusal], Application],
        *,
        turns: Turns,
        streams: int,
        bodies: int,
    ) -> None:
        self._inner, self._refuse = inner, refuse
        self.turns = turns
        self.streams, self.bodies = Shares(streams), Shares(bodies)
        self._parties: dict[bytes, Party] = {}
        self._refusing = threading.Lock()

    def __call__(self, environ: Environ, start_response: Any) -> Iterable[bytes]:
        """Serve a request, or refuse it."""
        if environ["PATH_INFO"] == _ALWAYS_OPEN:
            time.sleep(0)  # let others run: a client may send many requests at once
            return self._inner(environ, start_response)
        ticket = environ[_TICKET] = Ticket(self, environ)
        try:
            ticket.begin()
        except (TooManyRequests, Unavailable) as error:
            with self._refusing:  # one after the other: thousands at once delay nobody else
                time.sleep(0)
                return self._refuse(environ, error)(environ, start_response)
        try:
            time.sleep(0)
            begin_turn()
            return self._inner(environ, start_response)
        finally:
            ticket.end()

    def party_of(self, environ: Environ) -> Party:
        """Whose a request is, as far as is known before its key is checked."""
        digest = _digest(environ)
        return self._parties.get(digest) or Party(environ.get("REMOTE_ADDR", ""), digest)

    def remember(self, environ: Environ, party: Party) -> None:
        """Recognise who has these credentials from now on."""
        if not (digest := _digest(environ)):
            return  # the key is in the query or the body
        self._parties.pop(digest, None)
        self._parties[digest] = party
        if len(self._parties) > _MAX_PARTIES:
            del self._parties[next(iter(self._parties))]


class Ticket:
    """One request: whose it is, and whether it is in work."""

    def __init__(self, gate: Gate, environ: Environ) -> None:
        self._gate, self._environ = gate, environ
        self._party = gate.party_of(environ)
        self._began = 0.0
        self._seconds = 0.0  # in work
        self._is_known = self._is_quiet = False
        self._socket = environ.get("gunicorn.socket")  # a connection of config/connections.py

    def begin(self) -> None:
        """Wait for a turn. Raises TooManyRequests, Unavailable."""
        self._is_quiet = self._gate.turns.begin(self._party)
        self._began = time.monotonic()
        if self._socket is not None:
            self._socket.waiting = self.receiving

    def end(self) -> None:
        """The request is done, but for sending its answer."""
        if self._socket is not None:
            self._socket.waiting = nullcontext
        self._stop()
        self._gate.turns.measure(self._seconds, quiet=self._is_quiet)

    def identify(self, party: Party) -> None:
        """Its key is valid, and this party's."""
        self._is_known = True
        self._environ[_KEY] = party
        if party != self._party:
            before, self._party = self._party, party
            self._gate.remember(self._environ, party)
            self._gate.turns.move(before, party)

    @contextmanager
    def receiving(self) -> Iterator[None]:
        """A pause for bytes of the body. Raises TooManyRequests for a key with too many of them."""
        if not self._is_known:  # a small one; its connection is one of many that may be closed
            with self._paused():
                yield
            return
        with self._place(self._gate.bodies, "bodies"), self._paused():
            yield

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """A pause of any length. Raises TooManyRequests for a key with too many of them."""
        with self._place(self._gate.streams, "streams and waiting requests"), self._paused():
            yield

    def poll_interval(self) -> float:
        """Seconds between two polls of a waiting request, so that all of them poll seldom."""
        return self._gate.streams.used / _MAX_POLLS

    def hold_stream(self) -> Callable[[], None]:
        """Count a stream; the result ends it, once. Raises TooManyRequests."""
        place = ExitStack()
        place.enter_context(self._place(self._gate.streams, "streams and waiting requests"))
        return place.close

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Work of a stream, after its answer began."""
        self._gate.turns.resume(self._party)
        try:
            yield
        finally:
            self._gate.turns.end(self._party)

    @contextmanager
    def _place(self, shares: Shares, things: str) -> Iterator[None]:
        party = self._party
        if not shares.has_room(party):
            raise refusal(things)
        shares.take(party)
        try:
            yield
        finally:
            shares.give_back(party)

    @contextmanager
    def _paused(self) -> Iterator[None]:
        self._stop()
        try:
            yield
        finally:
            self._gate.turns.resume(self._party)
            self._began = time.monotonic()

    def _stop(self) -> None:
        self._seconds += time.monotonic() - self._began
        self._gate.turns.end(self._party)


def current() -> Ticket:
    """The ticket of the current request."""
    ticket: Ticket = request.environ[_TICKET]
    return ticket


def identify(party: Party) -> None:
    """The key of the current request is valid, and this party's."""
    if (ticket := request.environ.get(_TICKET)) is not None:
        ticket.identify(party)


def _digest(environ: Environ) -> bytes:
    """The credentials in the headers as a key of a dictionary; b"" if there are none."""
    credentials = [environ.get(name, "") for name in _CREDENTIALS]
    return sha256("\0".join(credentials).encode()).digest() if any(credentials) else b""
