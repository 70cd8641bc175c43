"""How many requests of one key a minute takes, counted in Redis for all API processes together.

Without Redis nothing is counted and nobody is refused: a limit protects, it does not decide.
"""

import logging
import time

from flask import Response, g
from limits import RateLimitItemPerMinute
from limits.storage import storage_from_string
from limits.strategies import SlidingWindowCounterRateLimiter
from redis.exceptions import RedisError
from werkzeug.exceptions import TooManyRequests

from api.toolkit.context import caller

_PATIENCE = 5.0  # seconds without counting after Redis did not answer: each look may cost one

_log = logging.getLogger(__name__)


class RateLimiter:
    """The limit of this deployment."""

    def __init__(self, redis_url: str, per_minute: int) -> None:
        self._item = RateLimitItemPerMinute(per_minute)
        self._away_until = 0.0
        self._limiter = SlidingWindowCounterRateLimiter(
            storage_from_string(redis_url, socket_timeout=1, socket_connect_timeout=1)
        )

    def count(self) -> None:
        """Count a request of the caller. Raises 429, with when to come again."""
        if time.monotonic() < self._away_until:
            return
        key = str(caller().key_id)
        try:
            allowed = self._limiter.hit(self._item, key)
            window = self._limiter.get_window_stats(self._item, key)
        except RedisError as error:
            _log.warning("requests are not counted", extra={"error": str(error)})
            self._away_until = time.monotonic() + _PATIENCE
            return
        g.rate = {
            "X-RateLimit-Limit": str(self._item.amount),
            "X-RateLimit-Remaining": str(max(0, window.remaining)),
            "X-RateLimit-Reset": str(int(window.reset_time) + 1),
        }
        if not allowed:
            wait = max(1, int(window.reset_time - time.time()) + 1)
            told = f"more than {self._item.amount:,} requests a minute of one key; come again"
            raise TooManyRequests(f"{told} in {wait} s", retry_after=wait)


def add_rate_headers(answer: Response) -> Response:
    """Say in the headers what is left of the limit."""
    answer.headers.extend(g.get("rate", {}))
    return answer
