"""Serves the mirror's folder, and nothing that an unfinished build has in it."""

from __future__ import annotations

from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class Handler(SimpleHTTPRequestHandler):
    """GET and HEAD below the folder; names with a leading dot are not there."""

    def send_head(self) -> object:  # type: ignore[override]
        if any(part.startswith(".") for part in self.path.split("?")[0].split("/")):
            self.send_error(404)
            return None
        return super().send_head()

    def log_message(self, format: str, *args: object) -> None:
        """Quiet: the tests' own output matters."""


def server(root: Path, bind: str, port: int) -> ThreadingHTTPServer:
    """A server that is listening; port 0 takes a free one (``server_address[1]``)."""
    ThreadingHTTPServer.allow_reuse_address = True
    return ThreadingHTTPServer((bind, port), partial(Handler, directory=str(root)))
