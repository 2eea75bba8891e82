"""For tests: the API on a free loopback port, in this process, without machines unless a backend is given."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests
import uvicorn

from ..backend import Backend, NoneBackend
from .app import create_app

TOKEN = "local-cloud-token-of-a-test"
START_TIMEOUT_S = 20
SPECIFICATION = Path(__file__).resolve().parents[4] / "shared" / "facts" / "hcloud_openapi.json"


@dataclass(frozen=True)
class LocalApi:
    """A running API: ``url`` without /v1, ``endpoint`` with it."""

    url: str
    token: str
    backend: Backend

    @property
    def endpoint(self) -> str:
        return f"{self.url}/v1"

    def call(self, method: str, path: str, body: Any = None, *, token: str | None = None, **options: Any) -> requests.Response:
        """A raw request below /v1."""
        headers = {"Authorization": f"Bearer {self.token if token is None else token}"}
        return requests.request(method, self.endpoint + path, json=body, headers=headers, timeout=20, **options)

    def local(self, method: str, path: str, body: Any = None) -> Any:
        """A request below /_local."""
        response = requests.request(method, f"{self.url}/_local{path}", json=body, timeout=20)
        response.raise_for_status()
        return response.json()

    def journal(self) -> list[dict[str, Any]]:
        return list(self.local("GET", "/journal")["exchanges"])

    def violations(self) -> list[str]:
        """Every departure from the official document so far that no waiver covers (empty as well when there is no document)."""
        return [f"{item['method']} {item['path']}: {text}" for item in self.journal() for text in item["violations"]]

    def settle(self, timeout: float = 20.0) -> None:
        """Wait until no action runs any more. Raises TimeoutError."""
        deadline = time.monotonic() + timeout
        while self.local("GET", "/health")["running_actions"]:
            if time.monotonic() > deadline:
                raise TimeoutError(f"actions still run after {timeout} s")
            time.sleep(0.02)


@contextmanager
def serve(
    state_dir: Path, *, backend: Backend | None = None, speed: float = 0.0, public_range: str = "10.93.99.0/24"
) -> Iterator[LocalApi]:
    """Run the API until the block ends. Exchanges are held against the official document where that is at hand."""
    if SPECIFICATION.exists():
        os.environ.setdefault("CUTOVER_HCLOUD_SPEC", str(SPECIFICATION))
    machines = backend or NoneBackend()
    app = create_app(state_dir=state_dir, token=TOKEN, backend=machines, public_range=public_range, speed=speed)
    # With the protocol named, asyncio switches Nagle's algorithm off; without, every reply would take 40 ms.
    with socket.socket(proto=socket.IPPROTO_TCP) as listener:
        listener.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        deadline = time.monotonic() + START_TIMEOUT_S
        while not server.started:
            if time.monotonic() > deadline or not thread.is_alive():
                raise RuntimeError("the API did not start; its log says why")
            time.sleep(0.005)
        try:
            yield LocalApi(f"http://127.0.0.1:{listener.getsockname()[1]}", TOKEN, machines)
        finally:
            server.should_exit = True
            thread.join(START_TIMEOUT_S)
