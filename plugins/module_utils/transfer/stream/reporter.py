# Copyright: cutover.hetzner contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Tells how a stream stands: looks every other second, writes the file for Prometheus' node exporter, answers on a port of the loopback address."""

from __future__ import annotations

import os
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import session
from ..errors import TransferError
from . import files, metrics, state
from .config import Config
from .spool_keeping import usage

if TYPE_CHECKING:
    import psycopg

APPLICATION = "cutover stream report"
_SECONDS = 2.0
# Over so long rates are taken.
_RATE_SECONDS = 30.0
# After a refused connection, so that a server that is down is not asked all the time.
_PATIENCE_SECONDS = 10.0
_CONTENT = "text/plain; version=0.0.4; charset=utf-8"


class Looker:
    """Looks at a stream, again and again. Its connection to the receiving database is made when needed, and does without when there is none."""

    def __init__(self, config: Config, starts: Callable[[], Mapping[str, int]] = dict) -> None:
        self.config, self.starts = config, starts
        self.samples: deque[metrics.Sample] = deque()
        self._conn: psycopg.Connection[Any] | None = None
        self._not_before = 0.0

    def look(self) -> tuple[metrics.View, dict[str, Any]]:
        """What there is to see, and what it means."""
        folder, at = self.config.spool, time.monotonic()
        segments, size = usage(folder)
        view = metrics.View(
            self.config.direction,
            self.config.slot,
            time.time(),
            self._file("receiver.json"),
            self._file("applier.json"),
            self._row(),
            self.starts(),
            segments,
            size,
            _room(folder),
        )
        sample = view.sample(at)
        if sample is not None:
            self.samples.append(sample)
        while len(self.samples) > 2 and at - self.samples[0].at > _RATE_SECONDS:
            self.samples.popleft()
        return view, metrics.status(view, list(self.samples))

    def close(self) -> None:
        """Let go of the connection."""
        if self._conn is not None:
            self._conn.close()
            self._conn = None

    def _file(self, name: str) -> dict[str, Any]:
        found = files.load(self.config.spool / name) or {}
        return found if found.get("slot") == self.config.slot else {}

    def _row(self) -> state.Stream | None:
        if time.monotonic() < self._not_before:
            return None
        try:
            if self._conn is None:
                self._conn = session.connect(self.config.receiving, application_name=APPLICATION, read_only=True)
                self._conn.execute("SET statement_timeout = '10s'")
            return state.read(self._conn, self.config.direction)
        except (TransferError, session.psycopg.Error):
            # The applier says why it cannot reach the database; here it only means that less is known.
            self.close()
            self._not_before = time.monotonic() + _PATIENCE_SECONDS
            return None


def _room(folder: Path) -> int | None:
    try:
        disk = os.statvfs(folder)
    except OSError:
        return None
    return disk.f_bavail * disk.f_frsize


def status(config: Config, seconds: float = 1.0) -> dict[str, Any]:
    """How a stream stands, see :func:`.metrics.status`. Where something is missing two looks are taken, ``seconds`` apart, for its rates."""
    looker = Looker(config)
    try:
        _view, found = looker.look()
        if found["lag_bytes"]:
            time.sleep(seconds)
            _view, found = looker.look()
        return found
    finally:
        looker.close()


class Reporter(threading.Thread):
    """text: for Prometheus, '' before the first look; line: one line for people"""

    def __init__(self, config: Config, starts: Callable[[], Mapping[str, int]]) -> None:
        super().__init__(name="reporter", daemon=True)
        self.config, self.text, self.line = config, "", "starting"
        self._looker = Looker(config, starts)
        self._server: ThreadingHTTPServer | None = None
        self._warned = False

    def run(self) -> None:
        """For as long as the process lives."""
        while True:
            try:
                self._report()
            except Exception:
                # The stream goes on without figures, and the next look may be better.
                traceback.print_exc()
            time.sleep(_SECONDS)

    def _report(self) -> None:
        if self.config.metrics_port is not None and self._server is None:
            self._listen(self.config.metrics_port)
        view, found = self._looker.look()
        self.text, self.line = metrics.prometheus(view, found), told(found)
        if self.config.metrics_file is not None:
            self._write(self.config.metrics_file)

    def _write(self, path: Path) -> None:
        try:
            # Another user's program reads it.
            files.replace(path, self.text, mode=0o644)
            self._warned = False
        except OSError as error:
            self._warn(f"figures cannot be written to {path}: {error.strerror}")

    def _listen(self, port: int) -> None:
        try:
            self._server = ThreadingHTTPServer(("127.0.0.1", port), self._handler())
        except OSError as error:
            self._warn(f"figures are not offered on port {port} of 127.0.0.1: {error.strerror}")
            return
        threading.Thread(target=self._server.serve_forever, name="metrics", daemon=True).start()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        reporter = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                known = self.path.split("?")[0] == "/metrics"
                body = (reporter.text if known else "Look at /metrics.\n").encode()
                self.send_response(200 if known else 404)
                self.send_header("Content-Type", _CONTENT if known else "text/plain; charset=utf-8")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None:
                """Not a word: it is asked all the time."""

        return Handler

    def _warn(self, text: str) -> None:
        if not self._warned:
            self._warned = True
            sys.stderr.write(f"{text}\n")


def told(found: Mapping[str, Any]) -> str:
    """A status in one line. Pure."""
    parts = [str(found["state"])]
    if found["lag_bytes"] is not None:
        parts.append(f"{found['lag_bytes'] / 1024**2:.1f} MiB behind")
    if found["catching_up"] is False:
        parts.append("and not catching up")
    elif found["eta_seconds"]:
        parts.append(f"{found['eta_seconds']:.0f} s to go")
    if found["problem"]:
        parts.append(str(found["problem"].get("kind")))
    return ", ".join(parts)
