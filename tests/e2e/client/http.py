"""Requests to a name whose address is looked up anew for every one of them."""

from __future__ import annotations

import time
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

import aiohttp

from .hosts import HostsFile, UnknownNameError


@dataclass(frozen=True)
class Answer:
    """t: when it ended, seconds since 1970. status, body: None when there was no answer; then error says why."""

    t: float
    ms: float
    address: str | None
    status: int | None
    body: Any
    error: str | None


class Http:
    """Keeps connections to each address of the name; a changed hosts file leads the next request to the new address."""

    def __init__(self, url: str, hosts: HostsFile, seconds: float) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.path not in ("", "/"):
            raise ValueError(f"--url must be like http://app.demo.test:3000, found {url!r}")
        self._scheme, self._name, self._host = parts.scheme, parts.hostname, parts.netloc
        self._port = parts.port or {"http": 80, "https": 443}[parts.scheme]
        self._hosts = hosts
        self._timeout = aiohttp.ClientTimeout(total=seconds)
        self._sessions: dict[str, aiohttp.ClientSession] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for session in self._sessions.values():
            await session.close()

    def _session(self, address: str) -> aiohttp.ClientSession:
        if address not in self._sessions:
            # A certificate is the name's and of an internal authority: the clients measure, they do not authenticate.
            connector = aiohttp.TCPConnector(limit=64, keepalive_timeout=10, ssl=False)
            self._sessions[address] = aiohttp.ClientSession(connector=connector, timeout=self._timeout, headers={"Host": self._host})
        return self._sessions[address]

    async def request(self, method: str, path: str, body: dict[str, object] | None = None) -> Answer:
        """One request, never repeated here; nothing is raised for a network that fails."""
        started, address = time.monotonic(), None
        status, content, error = None, None, None
        try:
            address = self._hosts.address(self._name)
            host = f"[{address}]" if ":" in address else address
            session = self._session(address)
            async with session.request(
                method,
                f"{self._scheme}://{host}:{self._port}{path}",
                json=body,
                server_hostname=self._name if self._scheme == "https" else None,
            ) as response:
                content = await response.json(content_type=None)
                status = response.status
        except (aiohttp.ClientError, OSError, ValueError, UnknownNameError) as failure:
            # TimeoutError is an OSError; an answer that broke off or is not JSON is no answer.
            error = f"{type(failure).__name__}: {failure}"[:200]
        return Answer(time.time(), round((time.monotonic() - started) * 1000, 2), address, status, content, error)
