"""Celery over Redis: sends chains and revokes, and reads what is queued.

No failure here fails a caller: the scheduler sends a lost message again. The settings were chosen
by measurement, above all early acknowledgement without prefetch: a worker survives the loss of
Redis, and Redis never starts a task twice.
"""

import logging
import ssl
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from itertools import chain, islice
from typing import Any

from celery import Celery, signals
from kombu.exceptions import KombuError
from redis.exceptions import RedisError

from orchestrator.broker.messages import VERSION, Message, Outbound
from orchestrator.broker.transport import is_wrong_type
from orchestrator.broker.wire import TASK, VERSION_HEADER, find_task_id, signature

MAX_LISTED = 10_000  # newest messages of a list that are looked at
STOP_SIGNAL = "SIGUSR1"

_LEVELS = 10  # priorities; Redis has one list for each
_QUEUES = 20  # whose messages are read in one round trip
_PAUSE = 1.0  # seconds without an attempt after the broker was unavailable
_UNAVAILABLE = (KombuError, RedisError, OSError)

_log = logging.getLogger(__name__)


class _App(Celery):  # type: ignore[misc]
    """An app that ignores Celery's environment variables, which are a project's in a worker."""

    backend_cls = "disabled"

    def connection(self, url: str | None = None, **options: Any) -> Any:
        return super().connection(url or self.conf["broker_url"], **options)

    def connection_for_read(self, url: str | None = None, **options: Any) -> Any:
        return super().connection_for_read(url or self.conf["broker_url"], **options)

    def connection_for_write(self, url: str | None = None, **options: Any) -> Any:
        return super().connection_for_write(url or self.conf["broker_url"], **options)


def make_app(redis_url: str, *, publisher: bool, task_events: bool = True) -> Celery:
    """A Celery app on this Redis. A publisher gives up soon, a worker waits until it is back."""
    app = _App("orchestrator", broker=redis_url, set_as_current=not publisher)
    app.loader.config_from_object({})
    app.conf.update(
        task_serializer="json",
        accept_content=["json"],
        task_ignore_result=True,
        task_acks_late=False,
        task_default_queue="default",
        task_inherit_parent_priority=True,
        task_publish_retry_policy={"max_retries": 0},
        worker_prefetch_multiplier=1,
        worker_disable_prefetch=True,
        worker_hijack_root_logger=False,
        worker_send_task_events=task_events,
        task_send_sent_event=False,  # a late one overwrites a task's readable name in Flower
        worker_cancel_long_running_tasks_on_connection_loss=False,
        broker_transport="orchestrator.broker.transport:Transport",
        # kombu's default, which it applies to its own transport only; the URL may say otherwise.
        broker_use_ssl=redis_url.startswith("rediss:") and {"ssl_cert_reqs": ssl.CERT_NONE},
        broker_connection_timeout=1,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_transport_options={
            "queue_order_strategy": "priority",
            "priority_steps": list(range(_LEVELS)),
            "health_check_interval": 5,
            "socket_timeout": 0.5 if publisher else 5,
            "socket_connect_timeout": 0.5,
            "socket_keepalive": True,
            # One retry without a pause: kombu's default is two seconds.
            "max_retries": 1,
            "interval_start": 0,
            "interval_max": 0.1,
            "visibility_timeout": 3600,
        },
    )
    return app


@signals.before_task_publish.connect(sender=TASK)  # type: ignore[untyped-decorator]
def _add_version(headers: dict[str, Any], **_: Any) -> None:
    """Add the version of the message; a worker also publishes, the next task of a chain."""
    headers[VERSION_HEADER] = VERSION


class Broker:
    """Sends a transaction's messages, and reads what Redis still has."""

    def __init__(self, app: Celery) -> None:
        self._app = app
        self._paused_until = 0.0

    def deliver(self, outgoing: Outbound) -> None:
        """Send messages and revokes, one attempt each; a sweep sends lost ones again."""
        if time.monotonic() < self._paused_until:
            return
        try:
            if outgoing.messages:
                self._send(outgoing.messages)
            if outgoing.revoked:
                self._revoke(outgoing.revoked)
        except _UNAVAILABLE as error:
            self._paused_until = time.monotonic() + _PAUSE
            _log.warning("broker unavailable", extra={"error": str(error)})

    def pending(self, queues: Collection[str]) -> Mapping[str, set[str]] | None:
        """The task ids in the broker's lists, by queue; None while it is unavailable.

        A message behind `MAX_LISTED` newer ones of others counts as lost: a copy is sent.
        """
        with suppress(*_UNAVAILABLE), self._app.connection_for_write() as connection:
            channel, names = connection.default_channel, iter(queues)
            pending: dict[str, set[str]] = {}
            while some := list(islice(names, _QUEUES)):
                with channel.client.pipeline(transaction=False) as pipeline:
                    for name in chain.from_iterable(map(channel.list_names, some)):
                        pipeline.lrange(name, 0, MAX_LISTED - 1)
                    lists = pipeline.execute(raise_on_error=False)
                if any(map(is_wrong_type, lists)):
                    channel.drop_wrong_types(some)
                each = iter(lists)
                pending |= {queue: set(_task_ids(islice(each, _LEVELS))) for queue in some}
            return pending
        return None

    def ping(self) -> bool:
        """Whether the broker answers."""
        with suppress(*_UNAVAILABLE), self._app.connection_for_write() as connection:
            return bool(connection.default_channel.client.ping())
        return False

    def version(self) -> str | None:
        """The version of Redis, or None while it is unavailable."""
        with suppress(*_UNAVAILABLE), self._app.connection_for_write() as connection:
            return str(connection.default_channel.client.info("server")["redis_version"])
        return None

    def _send(self, messages: Sequence[tuple[Message, Sequence[Message]]]) -> None:
        with self._app.producer_or_acquire() as producer:
            for message, chain in messages:
                self._app.send_task(
                    TASK,
                    task_id=message.task_id,
                    queue=message.queue,
                    # In Redis 0 goes first.
                    priority=_LEVELS - 1 - message.priority,
                    shadow=message.name,
                    # Celery takes a chain's next task from the end of the list.
                    chain=[
                        signature(each.task_id, each.queue, each.name) for each in reversed(chain)
                    ]
                    or None,
                    producer=producer,
                    ignore_result=True,
                    argsrepr="()",
                    kwargsrepr="{}",
                )

    def _revoke(self, task_ids: Sequence[str]) -> None:
        # On its own connection: Celery's shared one would retry for 20 s and more.
        with self._app.connection_for_write() as connection:
            connection.default_channel.client.ping()
            self._app.control.revoke(
                list(task_ids), terminate=True, signal=STOP_SIGNAL, connection=connection
            )


def _task_ids(lists: Iterable[list[bytes] | Exception]) -> Iterable[str]:
    """The task ids of ours in lists as Redis gave them; one of another type is empty."""
    for messages in lists:
        if isinstance(messages, Exception):
            if not is_wrong_type(messages):
                raise messages
        else:
            yield from filter(None, map(find_task_id, messages))
