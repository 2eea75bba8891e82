"""A read-only file server for the machines, bound to the instance's gateway address and nothing else."""

from __future__ import annotations

from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class Handler(SimpleHTTPRequestHandler):
    """GET and HEAD only; quiet."""

    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        return


def serve_files(address: str, port: int, directory: Path) -> int:
    """Serve until ended."""
    with ThreadingHTTPServer((address, port), partial(Handler, directory=str(directory))) as server:
        server.serve_forever()
    return 0
