"""Plays the hosted platform's gateway on loopback: keys at the door, the interface below /rest/v1, and faults as a test wants them.

What it imitates is documented at supabase.com/docs/guides/getting-started/api-keys: every request needs a key in ``apikey``; a secret key stands there
alone and is changed for the JWT of service_role; sent as bearer token it reaches PostgREST, which refuses it; legacy keys can be switched off. Every row
that leaves it comes from PostgREST.
"""

from __future__ import annotations

import http.client
import json
import socket
import struct
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import unquote, urlsplit

from .program import SECRET_KEY, token

_PREFIX = "/rest/v1"


@dataclass(frozen=True)
class Asked:
    """A request as it came in. number: from 1; path: after /rest/v1/, unquoted; query: quoted."""

    number: int
    path: str
    query: str
    headers: Mapping[str, str]


@dataclass(frozen=True)
class Fault:
    """What is sent instead of the answer. status 0: the connection is reset; half: the answer breaks off in the middle."""

    status: int = 0
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    half: bool = False


class Gateway:
    """Gateway in front of PostgREST at ``port``. fault: asked before every request; requests: all that came; refused: of keys."""

    def __init__(self, port: int, *, legacy_keys: bool = True) -> None:
        self.upstream, self.legacy_keys = port, legacy_keys
        self.fault: Callable[[Asked], Fault | None] = lambda _asked: None
        self.requests: list[Asked] = []
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"owner": self}))
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_details: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(10)

    @property
    def url(self) -> str:
        """Address of the project, as the platform's dashboard shows it."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def rows_asked(self, table: str) -> list[Asked]:
        """Requests for pages of a table."""
        return [asked for asked in self.requests if asked.path == table and ".asc" in asked.query]

    def note(self, path: str, query: str, headers: Mapping[str, str]) -> Asked:
        with self._lock:
            asked = Asked(len(self.requests) + 1, path, query, headers)
            self.requests.append(asked)
            return asked


class _Handler(BaseHTTPRequestHandler):
    owner: Gateway
    protocol_version = "HTTP/1.1"
    timeout = 30

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        headers = {name.lower(): value for name, value in self.headers.items()}
        asked = self.owner.note(unquote(url.path.removeprefix(_PREFIX).lstrip("/")), url.query, dict(headers))
        fault = self.owner.fault(asked)
        if fault is not None and not fault.half:
            self._send(fault)
            return
        if not url.path.startswith(_PREFIX):
            self._say(404, {"message": "no Route matched with those values"})
            return
        key, bearer = headers.get("apikey", ""), headers.get("authorization")
        if not key:
            self._say(401, {"message": "No API key found in request", "hint": "No `apikey` request header or url param was found."})
            return
        if key.startswith("sb_secret_"):
            if key != SECRET_KEY:
                self._say(401, {"message": "Unregistered API key"})
                return
            headers["authorization"] = bearer or f"Bearer {token(role='service_role')}"
        elif not self.owner.legacy_keys:
            hint = "Your legacy API keys (anon, service_role) were disabled. Re-enable them in the dashboard, or use the new keys."
            self._say(401, {"message": "Legacy API keys are disabled", "hint": hint})
            return
        self._forward(url.path.removeprefix(_PREFIX) or "/", url.query, headers, half=fault is not None)

    def _forward(self, path: str, query: str, headers: Mapping[str, str], half: bool) -> None:
        passed = {
            name: value.encode("latin-1")
            for name, value in headers.items()
            if name not in ("apikey", "host", "connection", "accept-encoding")
        }
        conn = http.client.HTTPConnection("127.0.0.1", self.owner.upstream, timeout=30)
        try:
            conn.request("GET", f"{path}?{query}" if query else path, headers=passed)
            answer = conn.getresponse()
            body = answer.read()
            kept = {
                name: value for name, value in answer.getheaders() if name.lower() in ("content-type", "content-range", "content-profile")
            }
        finally:
            conn.close()
        self._send(Fault(answer.status, body, kept, half))

    def _say(self, status: int, found: dict[str, Any]) -> None:
        self._send(Fault(status, json.dumps(found).encode(), {"Content-Type": "application/json; charset=utf-8"}))

    def _send(self, answer: Fault) -> None:
        if answer.status == 0:
            # Zero seconds of lingering: the client sees a reset instead of an end.
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.close_connection = True
            self.connection.close()
            return
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(answer.body)))
        self.end_headers()
        self.wfile.write(answer.body[: len(answer.body) // 2] if answer.half else answer.body)
        if answer.half:
            self.close_connection = True

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: a test says what went wrong itself."""
