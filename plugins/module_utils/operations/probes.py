# Copyright: cutover.hetzner contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""One measured check of each kind. Every probe returns the measured times; expectations are judged apart, purely."""

from __future__ import annotations

import http.client
import json
import re
import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from .errors import OperationsError

Target = Mapping[str, Any]

#: Keys of ``target`` per kind: required, then optional.
TARGETS: dict[str, tuple[frozenset[str], frozenset[str]]] = {
    "http": (frozenset({"url"}), frozenset({"method", "headers", "body", "address", "cafile", "verify"})),
    "tcp": (frozenset({"host", "port"}), frozenset()),
    "tls": (frozenset({"host", "port"}), frozenset({"name", "cafile", "verify"})),
    "dns": (frozenset({"name"}), frozenset({"family"})),
    "icmp": (frozenset({"host"}), frozenset({"interface"})),
    "sql": (frozenset({"query"}), frozenset({"dsn", "host", "port", "dbname", "user", "password", "sslmode", "sslrootcert"})),
    "redis": (frozenset({"host", "port"}), frozenset({"password", "user"})),
    "socks": (frozenset({"proxy_host", "proxy_port", "host", "port"}), frozenset({"path", "tls", "cafile"})),
    "log": (frozenset({"path"}), frozenset({"lines"})),
    "command": (frozenset({"argv"}), frozenset({"cwd"})),
}
#: Keys of ``expect`` that every kind understands.
COMMON_EXPECT = frozenset({"p50_ms", "p95_ms", "max_ms", "loss"})
EXPECT: dict[str, frozenset[str]] = {
    "http": frozenset({"status", "contains", "not_contains", "json"}),
    "tcp": frozenset(),
    "tls": frozenset({"versions", "days_left"}),
    "dns": frozenset({"addresses"}),
    "icmp": frozenset(),
    "sql": frozenset({"value"}),
    "redis": frozenset(),
    "socks": frozenset({"status", "contains"}),
    "log": frozenset({"contains", "not_contains"}),
    "command": frozenset({"rc", "contains", "not_contains"}),
}


@dataclass(frozen=True)
class Sample:
    """One measurement. ms: how long it took; error: why it failed, or empty; facts: what was seen (status, text, value, ...)."""

    ms: float
    error: str = ""
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Outcome:
    """The verdict over all samples. Times in milliseconds over the samples that succeeded, None when none did."""

    ok: bool
    samples: int
    failed: int
    p50_ms: float | None
    p95_ms: float | None
    max_ms: float | None
    problems: tuple[str, ...]
    detail: dict[str, Any]


def check_arguments(kind: str, target: Target, expect: Mapping[str, Any]) -> None:
    """Refuse unknown and missing keys before anything is measured. Raises OperationsError naming the key."""
    required, optional = TARGETS[kind]
    missing = sorted(key for key in required if target.get(key) in (None, ""))
    if missing:
        raise OperationsError(f"a {kind} probe needs target.{missing[0]}", f"target takes {', '.join(sorted(required | optional))}.")
    unknown = sorted(set(target) - required - optional)
    if unknown:
        raise OperationsError(
            f"a {kind} probe does not know target.{unknown[0]}", f"target takes {', '.join(sorted(required | optional))}."
        )
    allowed = EXPECT[kind] | COMMON_EXPECT
    strange = sorted(set(expect) - allowed)
    if strange:
        raise OperationsError(f"a {kind} probe does not know expect.{strange[0]}", f"expect takes {', '.join(sorted(allowed))}.")
    for key in ("contains", "not_contains"):
        for pattern in _many(expect.get(key)):
            try:
                re.compile(pattern)
            except re.error as error:
                raise OperationsError(
                    f"expect.{key}: {pattern!r} is not a regular expression: {error}", "Escape its special characters."
                ) from error


def percentile(values: Sequence[float], share: float) -> float | None:
    """Nearest-rank percentile (share 0..1) of the values, None of none."""
    if not values:
        return None
    ordered = sorted(values)
    return ordered[max(0, min(len(ordered) - 1, -(-int(share * 1000) * len(ordered) // 1000) - 1))]


def _many(value: Any) -> list[str]:
    if value is None:
        return []
    return [str(v) for v in value] if isinstance(value, (list, tuple)) else [str(value)]


def _text_problems(facts: Mapping[str, Any], expect: Mapping[str, Any]) -> list[str]:
    text = str(facts.get("text", ""))
    problems = [f"does not contain {p!r}" for p in _many(expect.get("contains")) if not re.search(p, text, re.MULTILINE)]
    return problems + [f"contains {p!r}" for p in _many(expect.get("not_contains")) if re.search(p, text, re.MULTILINE)]


def _json_problems(text: str, wanted: Mapping[str, Any]) -> list[str]:
    try:
        data = json.loads(text)
    except ValueError:
        return ["the answer is not JSON"]
    problems = []
    for path, value in wanted.items():
        found: Any = data
        for part in str(path).split("."):
            found = found.get(part) if isinstance(found, dict) else None
        if found != value:
            problems.append(f"{path} is {found!r}, wanted {value!r}")
    return problems


def sample_problems(kind: str, facts: Mapping[str, Any], expect: Mapping[str, Any]) -> list[str]:
    """What one successful sample lacks of what was expected, as short texts."""
    problems = _text_problems(facts, expect)
    if "status" in EXPECT[kind]:
        wanted = [int(s) for s in _many(expect.get("status", 200))]
        if facts.get("status") not in wanted:
            problems.append(f"status {facts.get('status')}, wanted {' or '.join(map(str, wanted))}")
    if kind == "http" and expect.get("json"):
        problems += _json_problems(str(facts.get("text", "")), expect["json"])
    if kind == "tls":
        if expect.get("versions") and facts.get("version") not in _many(expect["versions"]):
            problems.append(f"{facts.get('version')}, wanted {' or '.join(_many(expect['versions']))}")
        if expect.get("days_left") is not None and (facts.get("days_left") is None or facts["days_left"] < float(expect["days_left"])):
            problems.append(f"certificate valid for {facts.get('days_left')} days, wanted {expect['days_left']}")
    if kind == "dns" and expect.get("addresses") and sorted(_many(expect["addresses"])) != sorted(facts.get("addresses", [])):
        problems.append(f"addresses {facts.get('addresses')}, wanted {_many(expect['addresses'])}")
    if kind == "sql" and "value" in expect and str(facts.get("value")) != str(expect["value"]):
        problems.append(f"value {facts.get('value')!r}, wanted {expect['value']!r}")
    if kind == "command" and facts.get("rc") != int(expect.get("rc", 0)):
        problems.append(f"exit code {facts.get('rc')}, wanted {expect.get('rc', 0)}: {str(facts.get('text', '')).strip()[:200]}")
    return problems


def judge(kind: str, samples: Sequence[Sample], expect: Mapping[str, Any]) -> Outcome:
    """The verdict. ``expect.loss`` is the share of samples (0..1) that may fail, 0 by default."""
    problems: list[str] = []
    times: list[float] = []
    failed = 0
    for sample in samples:
        wrong = [sample.error] if sample.error else sample_problems(kind, sample.facts, expect)
        if wrong:
            failed += 1
            problems += [w for w in wrong if w not in problems]
        if not sample.error:
            times.append(sample.ms)
    figures = {"p50_ms": percentile(times, 0.5), "p95_ms": percentile(times, 0.95), "max_ms": max(times, default=None)}
    late = []
    for key, value in figures.items():
        if expect.get(key) is not None and (value is None or value > float(expect[key])):
            late.append(f"{key} is {'unmeasured' if value is None else round(value, 3)}, wanted at most {expect[key]}")
    ok = bool(samples) and failed <= float(expect.get("loss", 0)) * len(samples) and not late
    last = next((s.facts for s in reversed(samples) if s.facts), {})
    rounded = {k: None if v is None else round(v, 3) for k, v in figures.items()}
    return Outcome(ok, len(samples), failed, rounded["p50_ms"], rounded["p95_ms"], rounded["max_ms"], tuple(problems + late), dict(last))


# --- the thin shell: what touches the network ---------------------------------------------------------------------------------------------


def _context(target: Target) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=target.get("cafile") or None)
    if target.get("verify") is False:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _http(target: Target, timeout: float) -> dict[str, Any]:
    url = urlsplit(str(target["url"]))
    if url.scheme not in ("http", "https") or not url.hostname:
        raise OperationsError(f"target.url is not a http or https address: {target['url']}", "Write it as https://name/path.")
    port = url.port or (443 if url.scheme == "https" else 80)
    raw = socket.create_connection((str(target.get("address") or url.hostname), port), timeout)
    sock = _context(target).wrap_socket(raw, server_hostname=url.hostname) if url.scheme == "https" else raw
    connection = http.client.HTTPConnection(url.hostname, port, timeout=timeout)
    connection.sock = sock
    try:
        path = (url.path or "/") + (f"?{url.query}" if url.query else "")
        body = target.get("body")
        connection.request(
            str(target.get("method", "GET")), path, None if body is None else str(body).encode(), dict(target.get("headers") or {})
        )
        answer = connection.getresponse()
        return {"status": answer.status, "text": answer.read(1 << 20).decode("utf-8", "replace")}
    finally:
        connection.close()


def _tcp(target: Target, timeout: float) -> dict[str, Any]:
    with socket.create_connection((str(target["host"]), int(target["port"])), timeout) as sock:
        return {"address": sock.getpeername()[0]}


def _tls(target: Target, timeout: float) -> dict[str, Any]:
    with (
        socket.create_connection((str(target["host"]), int(target["port"])), timeout) as raw,
        _context(target).wrap_socket(raw, server_hostname=str(target.get("name") or target["host"])) as sock,
    ):
        certificate = sock.getpeercert() or {}
        days: float | None = None
        if "notAfter" in certificate:
            end = datetime.fromtimestamp(ssl.cert_time_to_seconds(str(certificate["notAfter"])), UTC)
            days = round((end - datetime.now(UTC)).total_seconds() / 86400, 2)
        return {"version": sock.version(), "days_left": days}


def _dns(target: Target, timeout: float) -> dict[str, Any]:
    family = {"ipv4": socket.AF_INET, "ipv6": socket.AF_INET6}.get(str(target.get("family", "")), socket.AF_UNSPEC)
    found = socket.getaddrinfo(str(target["name"]), None, family, socket.SOCK_STREAM)
    return {"addresses": sorted({str(entry[4][0]) for entry in found})}


def _icmp(target: Target, timeout: float) -> dict[str, Any]:
    ping = shutil.which("ping")
    if not ping:
        raise OperationsError("there is no ping program on this host", "Install iputils-ping.")
    interface = ["-I", str(target["interface"])] if target.get("interface") else []
    done = subprocess.run(
        [ping, "-n", "-c", "1", "-W", str(max(1, round(timeout))), *interface, str(target["host"])],
        capture_output=True,
        text=True,
        check=False,
        timeout=timeout + 5,
    )
    match = re.search(r"time=([\d.]+) ms", done.stdout)
    if done.returncode != 0 or not match:
        raise OSError(f"no answer from {target['host']}" + (f" through {target['interface']}" if interface else ""))
    return {"rtt_ms": float(match[1])}


class _Redis:
    """Just enough of Redis's protocol (RESP2) for AUTH and PING."""

    def __init__(self, target: Target, timeout: float) -> None:
        self.sock = socket.create_connection((str(target["host"]), int(target["port"])), timeout)
        self.file = self.sock.makefile("rb")
        if target.get("password"):
            user = [str(target["user"])] if target.get("user") else []
            self.call("AUTH", *user, str(target["password"]))

    def call(self, *words: str) -> str:
        data = b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(w.encode()), w.encode()) for w in words)
        self.sock.sendall(data)
        line = self.file.readline().decode("utf-8", "replace").rstrip()
        if not line:
            raise OSError("redis closed the connection")
        if line.startswith("-"):
            raise OSError(f"redis answers {line[1:]}")
        return line[1:]

    def close(self) -> None:
        self.file.close()
        self.sock.close()


def _socks(target: Target, timeout: float) -> dict[str, Any]:
    """HTTP GET through a SOCKS5 proxy (RFC 1928), the name resolved by the proxy."""
    sock = socket.create_connection((str(target["proxy_host"]), int(target["proxy_port"])), timeout)
    host = str(target["host"]).encode("idna")
    try:
        sock.sendall(b"\x05\x01\x00")
        if _exactly(sock, 2) != b"\x05\x00":
            raise OSError("the proxy does not offer access without a password")
        sock.sendall(b"\x05\x01\x00\x03" + bytes([len(host)]) + host + int(target["port"]).to_bytes(2, "big"))
        head = _exactly(sock, 4)
        if head[1] != 0:
            raise OSError(f"the proxy refuses the connection (SOCKS reply {head[1]})")
        _exactly(sock, {1: 4, 4: 16}.get(head[3]) or _exactly(sock, 1)[0])
        _exactly(sock, 2)
        if target.get("tls"):
            sock = _context(target).wrap_socket(sock, server_hostname=str(target["host"]))
        connection = http.client.HTTPConnection(str(target["host"]), int(target["port"]), timeout=timeout)
        connection.sock = sock
        connection.request("GET", str(target.get("path", "/")))
        answer = connection.getresponse()
        return {"status": answer.status, "text": answer.read(1 << 20).decode("utf-8", "replace")}
    finally:
        sock.close()


def _exactly(sock: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        more = sock.recv(count - len(data))
        if not more:
            raise OSError("the proxy closed the connection")
        data += more
    return data


def _log(target: Target, timeout: float) -> dict[str, Any]:
    lines = Path(str(target["path"])).read_text(encoding="utf-8", errors="replace").splitlines()
    kept = lines[-int(target["lines"]) :] if target.get("lines") else lines
    return {"text": "\n".join(kept), "lines": len(kept)}


def _command(target: Target, timeout: float) -> dict[str, Any]:
    done = subprocess.run(
        [str(a) for a in target["argv"]],
        capture_output=True,
        text=True,
        check=False,
        timeout=timeout,
        cwd=target.get("cwd"),
        stdin=subprocess.DEVNULL,
    )
    return {"rc": done.returncode, "text": done.stdout + done.stderr}


def _timed(work: Callable[[], dict[str, Any]]) -> Sample:
    begin = time.perf_counter()
    try:
        facts = work()
    except OperationsError:
        raise
    except subprocess.TimeoutExpired as error:
        return Sample((time.perf_counter() - begin) * 1000, f"no end within {error.timeout:.0f} s")
    except Exception as error:
        return Sample((time.perf_counter() - begin) * 1000, f"{type(error).__name__}: {error}".strip())
    return Sample(facts.get("rtt_ms", (time.perf_counter() - begin) * 1000), "", facts)


def _sql_session(target: Target, timeout: float) -> tuple[Callable[[], dict[str, Any]], Callable[[], None]]:
    import psycopg

    keys = ("host", "port", "dbname", "user", "password", "sslmode", "sslrootcert")
    arguments = {k: target[k] for k in keys if target.get(k) not in (None, "")}
    connection = psycopg.connect(str(target.get("dsn") or ""), autocommit=True, connect_timeout=max(2, round(timeout)), **arguments)

    def once() -> dict[str, Any]:
        row = connection.execute(str(target["query"]).encode()).fetchone()
        return {"value": row[0] if row else None}

    return once, connection.close


def measure(kind: str, target: Target, samples: int, interval: float, timeout: float) -> list[Sample]:
    """Take the samples. A latency of sql and redis is a round trip on an open connection; of the others it includes connecting.

    interval and timeout in seconds. Raises OperationsError where the probe itself cannot run.
    """
    simple: dict[str, Callable[[Target, float], dict[str, Any]]] = {
        "http": _http, "tcp": _tcp, "tls": _tls, "dns": _dns, "icmp": _icmp, "socks": _socks, "log": _log, "command": _command,
    }  # fmt: skip
    once: Callable[[], dict[str, Any]]
    end: Callable[[], None] | None = None
    if kind in simple:
        work = simple[kind]

        def once() -> dict[str, Any]:
            return work(target, timeout)
    else:
        opened: list[Any] = []

        def connect() -> dict[str, Any]:
            opened.append(_sql_session(target, timeout) if kind == "sql" else _Redis(target, timeout))
            return {}

        first = _timed(connect)
        if first.error:
            return [first]
        if kind == "sql":
            once, end = opened[0]
        else:
            client = opened[0]
            end = client.close

            def once() -> dict[str, Any]:
                answer = client.call("PING")
                if answer != "PONG":
                    raise OSError(f"redis answers {answer}")
                return {"answer": answer}

    taken = []
    try:
        for number in range(samples):
            if number:
                time.sleep(interval)
            taken.append(_timed(once))
    finally:
        if end:
            end()
    return taken
