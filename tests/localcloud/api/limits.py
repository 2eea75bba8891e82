"""The rate limit: a bucket of 3600 requests that refills by one each second."""

from __future__ import annotations

import threading
import time

LIMIT = 3600


class Bucket:
    def __init__(self, limit: int = LIMIT) -> None:
        self.limit = limit
        self._lock = threading.Lock()
        self._left = float(limit)
        self._at = time.monotonic()

    def _refill(self) -> None:
        moment = time.monotonic()
        self._left = min(self.limit, self._left + (moment - self._at) * self.limit / 3600)
        self._at = moment

    def take(self) -> bool:
        """Use one request up; False when none is left."""
        with self._lock:
            self._refill()
            if self._left < 1:
                return False
            self._left -= 1
            return True

    def set(self, left: int) -> None:
        with self._lock:
            self._left, self._at = float(min(left, self.limit)), time.monotonic()

    def headers(self) -> dict[str, str]:
        with self._lock:
            self._refill()
            full_in = (self.limit - self._left) * 3600 / self.limit
            return {
                "RateLimit-Limit": str(self.limit),
                "RateLimit-Remaining": str(int(self._left)),
                "RateLimit-Reset": str(int(time.time() + full_in)),
            }
