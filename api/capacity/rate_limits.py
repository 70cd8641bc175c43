"""A limit of requests per minute and key, counted in Redis for all API processes together.

Without Redis nothing is counted and no request is refused. A counter that is none, or that no
request of ours can have left, is deleted.
"""

import logging
import time
from contextlib import suppress

from flask import g
from limits import RateLimitItemPerMinute, WindowStats
from limits.storage import RedisStorage, storage_from_string
from limits.strategies import SlidingWindowCounterRateLimiter
from redis.exceptions import RedisError, ResponseError
from werkzeug.exceptions import TooManyRequests

_BACKOFF = 5.0  # seconds without counting after a Redis error: each try can take 1 s to time out

_log = logging.getLogger(__name__)


class RateLimiter:
    """Counts the requests of each key against the limit."""

    def __init__(self, redis_url: str, per_minute: int) -> None:
        self._item = RateLimitItemPerMinute(per_minute)
        self._disabled_until = 0.0
        storage = storage_from_string(redis_url, socket_timeout=1, socket_connect_timeout=1)
        assert isinstance(storage, RedisStorage)
        self._storage, self._limiter = storage, SlidingWindowCounterRateLimiter(storage)

    def count(self, key: str) -> None:
        """Count a request of a key, with headers in `g.rate`. Raises TooManyRequests."""
        if time.monotonic() < self._disabled_until:
            return
        try:
            allowed, window = self._hit(key)
        except RedisError as error:
            _log.warning("rate limit not enforced", extra={"error": str(error)})
            self._disabled_until = time.monotonic() + _BACKOFF
            return
        g.rate = {
            "X-RateLimit-Limit": str(self._item.amount),
            "X-RateLimit-Remaining": str(max(0, window.remaining)),
            "X-RateLimit-Reset": str(int(window.reset_time) + 1),
        }
        if not allowed:
            wait = max(1, int(window.reset_time - time.time()) + 1)
            detail = f"more than {self._item.amount:,} requests a minute of one key; come again"
            raise TooManyRequests(f"{detail} in {wait} s", retry_after=wait)

    def _hit(self, key: str) -> tuple[bool, WindowStats]:
        """Count, and read the window; a second time if the counter was not ours."""
        with suppress(ResponseError, ValueError):
            allowed = self._limiter.hit(self._item, key)
            if allowed or self._is_ours(key):
                return allowed, self._limiter.get_window_stats(self._item, key)
        _log.warning("foreign counter deleted")
        self._limiter.clear(self._item, key)
        allowed = self._limiter.hit(self._item, key)
        return allowed, self._limiter.get_window_stats(self._item, key)

    def _is_ours(self, key: str) -> bool:
        """Whether requests can have left these counters, which expire."""
        period, name = self._item.get_expiry(), self._item.key_for(key)
        last, last_ttl, now, now_ttl = self._storage.get_sliding_window(name, period)
        counts = max(last, now) <= self._item.amount
        return counts and bool(last_ttl or not last) and bool(now_ttl or not now)
