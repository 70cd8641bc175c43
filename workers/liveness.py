"""Liveness probe: the worker must receive its own message through Redis and its consumer.

A worker was seen to stop consuming for good after it lost its connection, with no line in its log
and with its heartbeat running. The probe has a list of its own, read by the same BRPOP as the
steps. It is inconclusive, and ends nothing, while all slots are taken, Redis is away, or it drains.
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

from orchestrator.broker.drops import drops
from orchestrator.broker.wire import probe_queue
from workers.app import app, settings
from workers.draining import draining

PROBE_INTERVAL = 5.0  # seconds between two probes, at most
EXIT_GRACE = 5.0  # seconds that its steps have before the worker exits
_EXPIRES = 120  # seconds until Redis drops the probe of a dead worker
_REDIS_ERRORS = (KombuError, RedisError, OSError)
_log = logging.getLogger(__name__)


class LivenessProbe:
    """Sends probes, receives them, and ends a worker that does not."""

    def __init__(self) -> None:
        self._worker: Any = None
        self._after = settings.deaf_after.total_seconds()
        self._sent = 0.0
        self._in_flight = False  # whether a probe was sent and not received
        self._alive_at = 0.0  # last evidence that it consumes, or cannot, monotonic
        self._checked_at = 0.0
        self._task_count = 0

    @property
    def queue(self) -> str:
        """The list that only this worker reads."""
        return probe_queue(self._worker.hostname, os.getpid())

    def start(self, worker: Any) -> None:
        """Start the sending thread."""
        self._worker, self._alive_at = worker, time.monotonic()
        threading.Thread(target=self._run, name="probe", daemon=True).start()

    def listen(self, consumer: Any) -> Consumer:
        """Consume the probes on the channel of the steps."""
        probes = Consumer(
            consumer.task_consumer.channel,
            [Queue(self.queue, Exchange(""), self.queue, no_declare=True)],
            no_ack=True,
            on_message=self._on_probe,
        )
        probes.consume()
        return probes

    def _on_probe(self, _: Any) -> None:
        # A consumer that lost the queues of the steps is as good as none.
        if draining.consumes_all():
            self._alive_at = time.monotonic()
        self._in_flight = False

    def _run(self) -> None:
        interval = min(PROBE_INTERVAL, self._after / 4)
        while True:
            time.sleep(interval / 5)
            try:
                self._tick(interval)
            except _REDIS_ERRORS:
                self._alive_at = time.monotonic()
            except Exception:
                _log.exception("probe failed")
                self._alive_at = time.monotonic()

    def _tick(self, interval: float) -> None:
        now = time.monotonic()
        asleep, self._checked_at = (
            now - self._checked_at > self._after / 2,
            now,
        )  # or the host
        if asleep or self._is_alive():
            self._alive_at = now
        if now - self._sent >= interval:
            self._send()
            self._sent = now
        if now - self._alive_at > self._after:
            _log.error("worker not consuming, restarting")
            self._alive_at = now
            draining.end(EXIT_GRACE, status=1)

    def _is_alive(self) -> bool:
        """Whether it received a message, or cannot: all slots are taken, or it drains."""
        previous, self._task_count = self._task_count, state.all_total_count[0] + drops.total
        slots = getattr(self._worker.pool, "num_processes", self._worker.concurrency)
        full = len(state.reserved_requests) >= slots
        received = self._task_count != previous and draining.consumes_all()
        return received or full or draining.deadline is not None

    def _send(self) -> None:
        """Put a probe into its list, if that is empty."""
        with app.connection_for_write(transport_options={"socket_timeout": 0.5}) as connection:
            queue = Queue(self.queue, Exchange(""), self.queue, expires=_EXPIRES)
            waiting = queue(connection.default_channel).queue_declare().message_count
            if waiting:
                return
            if self._in_flight:  # Redis has lost it
                self._alive_at = time.monotonic()
            Producer(connection).publish("", exchange="", routing_key=self.queue)
            self._in_flight = True


class ProbeStep(bootsteps.StartStopStep):
    """Sends the probes for as long as the process lives."""

    requires = ("celery.worker.components:Pool",)

    def start(self, parent: Any) -> None:
        """Start the thread."""
        liveness_probe.start(parent)


class ProbeConsumerStep(bootsteps.StartStopStep):
    """Consumes the probes; Celery starts it again for each connection."""

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def __init__(self, parent: Any, **options: Any) -> None:
        super().__init__(parent, **options)
        self._probes: Consumer | None = None

    def start(self, parent: Any) -> None:
        """Start consuming."""
        self._probes = liveness_probe.listen(parent)

    def stop(self, parent: Any) -> None:
        """Stop consuming."""
        if self._probes is not None:
            ignore_errors(parent, self._probes.cancel)


liveness_probe = LivenessProbe()
app.steps["worker"].add(ProbeStep)
app.steps["consumer"].add(ProbeConsumerStep)
