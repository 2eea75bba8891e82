# Copyright: cutover.hetzner contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A connection to a REST address that is kept open, waits when it is told to, and calls every refusal by its name."""

from __future__ import annotations

import base64
import http.client
import ipaddress
import json
import random
import ssl
import time
import urllib.request
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from urllib.parse import quote, unquote, urlsplit

from .endpoint import Endpoint
from .errors import TransferError
from .rest_key import ApiKey, read_key
from .rest_refusal import Refusal, refusal, retry_after

CONNECT_SECONDS = 20.0
READ_SECONDS = 120.0
BUDGET_SECONDS = 600.0
LONGEST_PAUSE = 30.0
MAX_BODY = 64 * 1024 * 1024
# A single row may be this large.
MAX_ROW_BODY = 1024 * 1024 * 1024


@dataclass(frozen=True)
class Reply:
    """An answer. status: 200 to 299; headers: names in lower case; body: decompressed."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Client:
    """One connection, used by one thread at a time.

    budget: seconds that failures may last in a row; sleep, clock: seconds, replaceable for tests
    """

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        budget: float = BUDGET_SECONDS,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if endpoint.rest is None:
            raise TransferError(f"{endpoint.describe()} is not a REST address", "Give rest with url and key.")
        self.where = endpoint.describe()
        self.api_key: ApiKey = read_key(endpoint.rest.key, time.time())
        self._secret = endpoint.rest.key
        self._url = urlsplit(base_url(endpoint))
        self._context = _tls(endpoint) if self._url.scheme == "https" else None
        self._budget, self._sleep, self._clock = budget, sleep, clock
        self._conn: http.client.HTTPConnection | None = None
        self._prefix = ""
        self._proxy_headers: dict[str, str] = {}
        self.requests = self.retries = 0

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_details: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; the next request opens another."""
        if self._conn is not None:
            self._conn.close()
            self._conn = None

    def get(self, path: str, query: str = "", headers: Mapping[str, str | bytes] | None = None, *, many: bool = False) -> Reply:
        """Answer to a GET.

        path: after the base address, unquoted; query: quoted; many: a smaller page could help, so one that is too large for the server or
        too slow raises TransferError of kind ``too_big`` at once
        Raises TransferError named by its cause (``details.kind``, ``details.status``) when asking again is no use or the budget is used up.
        """
        target = f"{self._url.path}/{quote(path, safe='')}" + (f"?{query}" if query else "")
        deadline: float | None = None
        pause, stale = 0.5, True
        while True:
            reused = self._conn is not None
            failure = self._attempt(target, dict(headers or {}), MAX_BODY if many else MAX_ROW_BODY)
            if isinstance(failure, Reply):
                return failure
            self.close()
            if failure.kind == "broken" and reused and stale:
                # A kept connection that the other side has closed meanwhile says nothing about the server.
                stale = False
                continue
            if failure.too_big and many:
                raise self._error(failure, kind="too_big")
            if not failure.again:
                raise self._error(failure)
            now = self._clock()
            deadline = now + self._budget if deadline is None else deadline
            wait = max(pause * random.uniform(0.7, 1.3), failure.wait or 0.0)
            if now + wait > deadline:
                raise self._error(failure, gave_up=True)
            self.retries += 1
            self._sleep(wait)
            pause = min(pause * 2, LONGEST_PAUSE)

    def _attempt(self, target: str, headers: dict[str, str | bytes], limit: int) -> Reply | Refusal:
        self.requests += 1
        asked = {"Accept": "application/json", "Accept-Encoding": "gzip", "User-Agent": "cutover-hetzner", **self.api_key.headers}
        try:
            conn = self._connection()
            conn.request("GET", self._prefix + target, headers={**asked, **self._proxy_headers, **headers})
            answer = conn.getresponse()
            body = self._body(answer, limit)
        except ssl.SSLCertVerificationError as error:
            return Refusal("tls", f"its certificate is not accepted: {error.verify_message}", "Set sslrootcert, or correct the address.")
        except ssl.SSLError as error:
            return Refusal("tls", f"TLS failed: {error.reason}", "Check the address and the proxy in between.", again=True)
        except TimeoutError:
            return Refusal("timeout", f"no answer within {READ_SECONDS:.0f} s", "Try again when it is less busy.", again=True, too_big=True)
        except _TooLargeError:
            return Refusal("too_large", f"an answer of more than {limit} bytes", "Exclude the table, or shorten the row.", too_big=True)
        except (OSError, http.client.HTTPException, zlib.error) as error:
            kind = "broken" if isinstance(error, ConnectionError | http.client.HTTPException | zlib.error) else "rest_unreachable"
            kind = "rest_unreachable" if isinstance(error, ConnectionRefusedError) else kind
            return Refusal(kind, f"{type(error).__name__}: {error}", "Check the address, the network and the proxy.", again=True)
        found = {name.lower(): value for name, value in answer.getheaders()}
        if 200 <= answer.status < 300:
            if "json" in found.get("content-type", ""):
                return Reply(answer.status, found, body)
            return Refusal(
                "not_rest", f"an answer of type {found.get('content-type', 'none')!r}", "Give the base address of PostgREST as rest.url."
            )
        return refusal(answer.status, body, self.api_key.kind, retry_after(found.get("retry-after"), time.time()))

    def _connection(self) -> http.client.HTTPConnection:
        if self._conn is not None:
            return self._conn
        host, port = self._url.hostname or "", self._url.port
        direct = _is_here(host) or urllib.request.proxy_bypass(self._url.netloc)
        proxy = None if direct else urllib.request.getproxies().get(self._url.scheme)
        through = urlsplit(proxy if "//" in proxy else f"//{proxy}") if proxy else None
        peer = (through.hostname or "", through.port or 3128) if through else (host, port)
        self._prefix, self._proxy_headers = "", {}
        credentials = _basic(through.username, through.password) if through and through.username else {}
        conn: http.client.HTTPConnection
        if self._context is not None:
            conn = http.client.HTTPSConnection(*peer, timeout=CONNECT_SECONDS, context=self._context)
            if through:
                conn.set_tunnel(host, port or 443, headers=credentials)
        else:
            conn = http.client.HTTPConnection(*peer, timeout=CONNECT_SECONDS)
            if through:
                self._prefix, self._proxy_headers = f"http://{self._url.netloc}", credentials
        conn.connect()
        conn.sock.settimeout(READ_SECONDS)
        self._conn = conn
        return conn

    def _body(self, answer: http.client.HTTPResponse, limit: int) -> bytes:
        unpack = zlib.decompressobj(31) if answer.getheader("Content-Encoding", "").lower() == "gzip" else None
        parts, size, end = [], 0, time.monotonic() + 3 * READ_SECONDS
        while data := answer.read(256 * 1024):
            # A crafted or broken answer must not grow without bounds while it is unpacked.
            data = unpack.decompress(data, limit + 1) if unpack else data
            size += len(data)
            if size > limit or (unpack and unpack.unconsumed_tail):
                raise _TooLargeError
            if time.monotonic() > end:
                raise TimeoutError
            parts.append(data)
        if answer.length:
            raise http.client.IncompleteRead(b"", answer.length)
        if unpack and parts and not unpack.eof:
            raise zlib.error("the answer ends in the middle")
        return b"".join(parts)

    def _error(self, failure: Refusal, kind: str | None = None, gave_up: bool = False) -> TransferError:
        tried = f" (given up after trying for {self._budget:.0f} s)" if gave_up else ""
        details = {"kind": kind or failure.kind, "endpoint": self.where}
        if failure.status:
            details["status"] = str(failure.status)
        return TransferError(f"{self.where}: {failure.message}{tried}".replace(self._secret, "***"), failure.remedy, **details)


class _TooLargeError(Exception):
    pass


def base_url(endpoint: Endpoint) -> str:
    """Address of PostgREST itself. Raises TransferError for anything but http and https, or when a key would travel in the clear."""
    given = endpoint.rest.url if endpoint.rest else ""
    url = urlsplit(given)
    if url.scheme not in ("http", "https") or not url.hostname or url.query or url.fragment or url.username:
        raise TransferError(f"rest.url is {given!r}, expected https://host or https://host/path", "Correct rest.url.", kind="bad_url")
    if url.scheme == "http" and endpoint.sslmode != "disable" and not _is_here(url.hostname):
        raise TransferError(
            f"rest.url is {given!r}, and the key would travel unencrypted",
            "Use https, or set sslmode: disable if the way there is safe.",
            kind="tls",
        )
    # The platform's base address, as its dashboard shows it, leads to all services.
    path = url.path.rstrip("/")
    return f"{url.scheme}://{url.netloc}{'/rest/v1' if endpoint.flavour == 'supabase' and not path else path}"


def decoded(reply: Reply) -> object:
    """JSON of a body with every number as the text it came as. Raises TransferError when it is none."""
    try:
        return json.loads(reply.body, parse_int=str, parse_float=str, parse_constant=str)
    except ValueError as error:
        raise TransferError(
            f"the REST source sent something else than JSON: {error}", "Try again; if it repeats, look at a proxy in between."
        ) from error


def _is_here(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _tls(endpoint: Endpoint) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=endpoint.sslrootcert)
    except (OSError, ssl.SSLError) as error:
        raise TransferError(
            f"sslrootcert {endpoint.sslrootcert} cannot be used: {error}", "Give a file of PEM certificates.", kind="tls"
        ) from error


def _basic(user: str, password: str | None) -> dict[str, str]:
    pair = f"{unquote(user)}:{unquote(password or '')}"
    return {"Proxy-Authorization": f"Basic {base64.b64encode(pair.encode()).decode()}"}
