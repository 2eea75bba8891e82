"""Everything a call or an action needs to know of the cloud it belongs to."""

from __future__ import annotations

import ipaddress
import threading
import time
from dataclasses import dataclass, field

from ..backend import Backend, BackendError
from .catalogue import Catalogue
from .engine import Engine
from .store import Store

POWER_MEMORY_S = 0.5


@dataclass
class Cloud:
    store: Store
    backend: Backend
    engine: Engine
    public_range: ipaddress.IPv4Network
    catalogue: Catalogue = field(default_factory=Catalogue)
    _power: dict[int, tuple[float, str]] = field(default_factory=dict)
    _power_lock: threading.Lock = field(default_factory=threading.Lock)

    def power(self, server_id: int, fresh: bool = False) -> str:
        """One of "running", "off" or "unknown" as the backend sees it, remembered for half a second unless fresh."""
        with self._power_lock:
            at, state = self._power.get(server_id, (-1.0, ""))
        if fresh or not state or time.monotonic() - at > POWER_MEMORY_S:
            try:
                state = "running" if self.backend.running(server_id) else "off"
            except BackendError:
                state = "unknown"
            with self._power_lock:
                self._power[server_id] = (time.monotonic(), state)
        return state

    def forget_power(self, server_id: int) -> None:
        with self._power_lock:
            self._power.pop(server_id, None)
