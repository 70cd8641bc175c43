"""Sends due deliveries in threads, with limits per receiver and tenant.

A receiver that never answers delays only its own deliveries: no transaction is open while one is
sent, each lane and tenant has its share of the threads, the lanes that were slow the last time have
a small share, and a tenant for which nothing is being sent goes first.
"""

import json
import logging
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import product
from threading import Lock
from uuid import UUID

from sqlalchemy.exc import SQLAlchemyError

from config.settings import Settings
from orchestrator.access import signing, tenants
from orchestrator.access.references import (
    REFERENCE,
    Resolver,
    SecretMissing,
    SecretSources,
    SecretUnavailable,
)
from orchestrator.db.database import Database
from orchestrator.models import DeliveryKind
from orchestrator.notifications import deliveries, http, mail, webhooks
from orchestrator.notifications.deliveries import Backoff, ClaimedDelivery
from orchestrator.notifications.http import SendResult
from orchestrator.notifications.mail import MailServer
from orchestrator.notifications.targets import Resolve
from orchestrator.sdk.masking import Mask

SENDERS = 32  # threads, started on demand
MAX_PER_TENANT = 8
MAX_PER_LANE = 2
MAX_SLOW_PER_TENANT = 4
MAX_SLOW = 16  # of all tenants together
LEASE = timedelta(seconds=60)  # longer than every timeout of one attempt

_MAX_SLOW_KNOWN = 1000  # lanes remembered as slow

_log = logging.getLogger(__name__)


class Deliverer:
    """Claims due deliveries, sends them, and records the results."""

    def __init__(
        self,
        database: Database,
        settings: Settings,
        secret_key: str,
        *,
        backoff: Backoff | None = None,
        lease: timedelta = LEASE,
        within: float = http.TOTAL_SECONDS,
        resolve: Resolve | None = None,
    ) -> None:
        self._database, self._settings, self._key = database, settings, secret_key
        MailServer.of(REFERENCE.sub("x", settings.smtp_url))  # refuses an unusable one at once
        self._secrets = SecretSources.of(settings)
        self._backoff, self._lease, self._resolve = backoff or Backoff(), lease, resolve
        self._within = within
        self._tenants: dict[UUID, str] = {}  # names by id, which never change
        self._pool = ThreadPoolExecutor(SENDERS, thread_name_prefix="deliverer")
        self._running = 0
        self._ending = False
        self._threads_lock = Lock()  # guards the number of threads
        self._claim_lock = Lock()  # guards one claim and the counts that it depends on
        self._busy: Counter[str] = Counter()  # senders by lane, and by tenant
        self._slow: dict[str, None] = {}  # lanes whose last attempt took long, in that order
        self._after = ""  # the lane of the last claim

    def wake(self) -> int:
        """Start a thread that sends what is due; always 0, since it moves nothing by itself."""
        with self._threads_lock:
            if self._running < SENDERS and not self._ending:
                self._running += 1
                self._pool.submit(self._work)
        return 0

    def end(self) -> None:
        """Claim nothing more, and wait for the running threads."""
        with self._threads_lock:
            self._ending = True
        self._pool.shutdown()

    def _work(self) -> None:
        try:
            while claimed := self._claim():
                self.wake()  # there may be more
                began = time.monotonic()
                try:
                    self._deliver(claimed)
                finally:
                    self._release(claimed, time.monotonic() - began)
        except SQLAlchemyError as error:  # the delivery comes due again after its lease
            _log.warning("delivery failed", extra={"error": str(error)})
        finally:
            with self._threads_lock:
                self._running -= 1

    def _claim(self) -> ClaimedDelivery | None:
        """Claim the next due delivery, tenants and lanes in turn; None when there is none."""
        with self._claim_lock:
            full = self._full()
            idle_only = full | {_owner(lane) for lane in self._busy}
            tries = dict.fromkeys(product((idle_only, full), (self._after, "")))
            for full, after in () if self._ending else tries:
                with self._database.transaction() as session:
                    claimed = deliveries.claim_delivery(
                        session, after=after, full=full, lease=self._lease
                    )
                if claimed is not None:
                    self._after = claimed.lane
                    self._busy.update(_busy_keys(claimed))
                    return claimed
        return None

    def _full(self) -> frozenset[str]:
        """Lanes and tenants that have reached their maximum of senders."""
        full = {
            name
            for name, count in self._busy.items()
            if count >= (MAX_PER_LANE if " " in name or name == "mail" else MAX_PER_TENANT)
        }
        slow: Counter[str] = Counter()
        for lane in self._busy.keys() & self._slow.keys():
            slow[_owner(lane)] += self._busy[lane]
        all_slow = slow.total() >= MAX_SLOW
        return frozenset(full).union(
            lane for lane in self._slow if all_slow or slow[_owner(lane)] >= MAX_SLOW_PER_TENANT
        )

    def _release(self, claimed: ClaimedDelivery, seconds: float) -> None:
        with self._claim_lock:
            self._busy.subtract(_busy_keys(claimed))
            self._busy = +self._busy
            self._slow.pop(claimed.lane, None)
            if seconds >= self._within / 4:
                self._slow[claimed.lane] = None
            if len(self._slow) > _MAX_SLOW_KNOWN:
                del self._slow[next(iter(self._slow))]

    def _deliver(self, claimed: ClaimedDelivery) -> None:
        began = time.monotonic()
        try:
            result = self._send(claimed)
        except Exception as error:  # a bug: log it, and count it as an attempt
            _log.exception("delivery not sent", extra={"delivery_id": str(claimed.id)})
            result = SendResult(error=f"{type(error).__name__}: {error}")
        seconds = time.monotonic() - began
        self._database.run_with_retry(
            lambda session: deliveries.record_delivery(
                session, claimed, result, seconds, self._backoff
            ),
            within=self._lease,
        )

    def _send(self, claimed: ClaimedDelivery) -> SendResult:
        """Send a delivery; what `secret://` stands for is in no error."""
        is_mail = claimed.kind == DeliveryKind.MAIL
        resolver = Resolver(
            self._secrets.read_own if is_mail else partial(self._read_secret, claimed.tenant_id)
        )
        try:
            result = self._send_with(claimed, resolver)
        except (SecretMissing, SecretUnavailable) as error:
            return SendResult(error=str(error))
        return replace(result, error=result.error and Mask(resolver.values).text(result.error))

    def _read_secret(self, tenant_id: UUID, name: str) -> str:
        if tenant_id not in self._tenants:
            with self._database.transaction() as session:
                tenant = tenants.get_tenant(session, tenant_id, tenant_id)
            self._tenants[tenant_id] = tenant.name
        return self._secrets.read(self._tenants[tenant_id], name)

    def _mail_server(self, resolver: Resolver) -> MailServer | None:
        return MailServer.of(resolver.resolve(self._settings.smtp_url, quoted=True))

    def _send_with(self, claimed: ClaimedDelivery, resolver: Resolver) -> SendResult:
        if not claimed.is_active:
            return SendResult(error="not sent: its webhook was switched off", final=True)
        if claimed.kind == DeliveryKind.MAIL:
            message = mail.compose_mail(
                claimed.payload,
                sender=self._settings.mail_from,
                to=claimed.target,
                message_id=str(claimed.id),
                api=self._settings.url,
            )
            return mail.send_mail(self._mail_server(resolver), message)
        body = json.dumps(claimed.payload, separators=(",", ":")).encode()
        owner = claimed.webhook_id or claimed.tenant_id  # the latter if the run requests it
        numbers = webhooks.valid_secret_numbers(
            claimed.secret_number, claimed.rotated_at, datetime.now(UTC)
        )
        keys = [signing.webhook_secret(self._key, owner, number) for number in numbers]
        signature = http.sign_request(keys, str(claimed.id), body)
        return http.post_webhook(
            resolver.resolve(claimed.target),
            {"Content-Type": "application/json", "User-Agent": "orchestrator", **signature},
            body,
            allow_private=self._settings.allow_private_targets,
            resolve=self._resolve,
            within=self._within,
        )


def _busy_keys(claimed: ClaimedDelivery) -> set[str]:
    return {claimed.lane, _owner(claimed.lane)}


def _owner(lane: str) -> str:
    """The tenant of a lane; `mail` for all mail, which goes through one server."""
    return lane.partition(" ")[0]
