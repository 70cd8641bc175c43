"""Whether this worker still hears: it sends itself a message, through Redis and its own consumer.

A worker was seen to stop consuming for good after its connection had been lost, with no line in its
log and its heart beating. The probe waits in a list of its own and comes by the same BRPOP as the
steps do. It says nothing while there is no telling: all slots are taken, Redis is away, it drains.
"""

import logging
import os
import threading
import time
from typing import Any

from celery import bootsteps
from celery.worker import state
from kombu.common import ignore_errors
from kombu.entity import Exchange, Queue
from kombu.exceptions import KombuError
from kombu.messaging import Consumer, Producer
from redis.exceptions import RedisError

from workers.app import app, settings
from workers.draining import draining

PROBE_INTERVAL = 5.0  # seconds between two probes
EXIT_GRACE = 5.0  # seconds that the steps of a deaf worker get
_KEPT = 120  # seconds until Redis forgets a probe whose worker is dead
_AWAY = (KombuError, RedisError, OSError)
_log = logging.getLogger(__name__)


class LivenessProbe:
    """Sends, listens, and ends the worker that does not hear."""

    def __init__(self) -> None:
        self._worker: Any = None
        self._after = settings.deaf_after.total_seconds()
        self._sent = 0.0
        self._waits = False  # whether a probe is on its way
        self._doubt = 0.0  # since when nothing shows that the worker hears
        self._looked = 0.0
        self._tasks = 0

    @property
    def queue(self) -> str:
        """The list that only this worker reads."""
        return f"probe.{self._worker.hostname}.{os.getpid()}"

    def start(self, worker: Any) -> None:
        """Begin to send."""
        self._worker, self._doubt = worker, time.monotonic()
        threading.Thread(target=self._run, name="probe", daemon=True).start()

    def listen(self, consumer: Any) -> Consumer:
        """Hear the probes on the channel that brings the steps."""
        hearing = Consumer(
            consumer.task_consumer.channel,
            [Queue(self.queue, Exchange(""), self.queue, no_declare=True)],
            no_ack=True,
            on_message=self._hear,
        )
        hearing.consume()
        return hearing

    def _hear(self, _: Any) -> None:
        # A consumer that was made to forget the queues of the steps hears nothing that matters.
        if draining.consumes_all():
            self._doubt = time.monotonic()
        self._waits = False

    def _run(self) -> None:
        every = min(PROBE_INTERVAL, self._after / 4)
        while True:
            time.sleep(every / 5)
            try:
                self._look(every)
            except _AWAY:
                self._doubt = time.monotonic()
            except Exception:
                _log.exception("probe failed")
                self._doubt = time.monotonic()

    def _look(self, every: float) -> None:
        now = time.monotonic()
        asleep, self._looked = now - self._looked > self._after / 2, now  # or its host was
        if asleep or self._is_heard():
            self._doubt = now
        if now - self._sent >= every:
            self._send()
            self._sent = now
        if now - self._doubt > self._after:
            _log.error("deaf: it does not hear what Redis holds for it, and starts again")
            self._doubt = now
            draining.end(EXIT_GRACE, status=1)

    def _is_heard(self) -> bool:
        """Whether there is another sign that it hears, or a reason why it cannot."""
        before, self._tasks = self._tasks, state.all_total_count[0]
        slots = getattr(self._worker.pool, "num_processes", self._worker.concurrency)
        full = len(state.reserved_requests) >= slots
        hears = self._tasks != before and draining.consumes_all()
        return hears or full or draining.by is not None

    def _send(self) -> None:
        """Leave a probe in Redis, if none waits there."""
        with app.connection_for_write(transport_options={"socket_timeout": 0.5}) as connection:
            queue = Queue(self.queue, Exchange(""), self.queue, expires=_KEPT)
            waiting = queue(connection.default_channel).queue_declare().message_count
            if waiting:
                return
            if self._waits:  # Redis has lost it
                self._doubt = time.monotonic()
            Producer(connection).publish("", exchange="", routing_key=self.queue)
            self._waits = True


class ProbeStep(bootsteps.StartStopStep):
    """Sends the probes for as long as the process lives."""

    requires = ("celery.worker.components:Pool",)

    def start(self, parent: Any) -> None:
        """Start sending."""
        liveness_probe.start(parent)


class ListenStep(bootsteps.StartStopStep):
    """Hears the probes, with each connection anew."""

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def __init__(self, parent: Any, **options: Any) -> None:
        super().__init__(parent, **options)
        self._hearing: Consumer | None = None

    def start(self, parent: Any) -> None:
        """Start listening."""
        self._hearing = liveness_probe.listen(parent)

    def stop(self, parent: Any) -> None:
        """Stop listening."""
        if self._hearing is not None:
            ignore_errors(parent, self._hearing.cancel)


liveness_probe = LivenessProbe()
app.steps["worker"].add(ProbeStep)
app.steps["consumer"].add(ListenStep)
