"""Probes measure real services on loopback; judging is pure."""

from __future__ import annotations

import contextlib
import http.server
import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from ansible_collections.cutover.hetzner.plugins.module_utils.operations import probes
from ansible_collections.cutover.hetzner.plugins.module_utils.operations.errors import OperationsError


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = json.dumps({"status": "ok", "database": {"name": "booking"}}).encode()
        self.send_response(200 if self.path == "/health" else 404)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        return None


@pytest.fixture(scope="module")
def server() -> Iterator[int]:
    httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=httpd.serve_forever, daemon=True).start()
    yield httpd.server_address[1]
    httpd.shutdown()


def serve_once(reply: dict[bytes, bytes]) -> int:
    """A line server for one connection: answers by what the request contains."""
    listener = socket.create_server(("127.0.0.1", 0))

    def run() -> None:
        connection, _unused = listener.accept()
        with connection, contextlib.suppress(ConnectionError):
            while data := connection.recv(4096):
                answer = next((v for k, v in reply.items() if k in data), b"")
                if not answer:
                    break
                connection.sendall(answer)
        listener.close()

    threading.Thread(target=run, daemon=True).start()
    return int(listener.getsockname()[1])


def run(kind: str, target: dict[str, object], expect: dict[str, object] | None = None, samples: int = 1) -> probes.Outcome:
    probes.check_arguments(kind, target, expect or {})
    return probes.judge(kind, probes.measure(kind, target, samples, 0, 3), expect or {})


def test_http(server: int) -> None:
    url = f"http://127.0.0.1:{server}/health"
    good = run("http", {"url": url}, {"json": {"status": "ok", "database.name": "booking"}, "contains": "book"}, 5)
    assert good.ok and good.samples == 5 and good.p95_ms is not None and good.problems == ()
    named = run("http", {"url": f"http://app.demo.test:{server}/health", "address": "127.0.0.1"})
    assert named.ok
    assert "status 404" in run("http", {"url": f"http://127.0.0.1:{server}/none"}).problems[0]
    assert "postgres" in run("http", {"url": url}, {"json": {"database.name": "postgres"}}).problems[0]
    assert not run("http", {"url": url}, {"not_contains": "ok"}).ok
    assert not run("http", {"url": url}, {"max_ms": 0.000001}).ok


def test_a_closed_port_is_a_result_not_a_crash() -> None:
    outcome = run("tcp", {"host": "127.0.0.1", "port": 1})
    assert not outcome.ok and outcome.failed == 1 and "refused" in outcome.problems[0]
    assert outcome.p95_ms is None


def test_redis() -> None:
    port = serve_once({b"AUTH": b"+OK\r\n", b"PING": b"+PONG\r\n"})
    assert run("redis", {"host": "127.0.0.1", "port": port, "password": "pw"}, samples=3).ok
    port = serve_once({b"AUTH": b"-WRONGPASS invalid\r\n"})
    assert "WRONGPASS" in run("redis", {"host": "127.0.0.1", "port": port, "password": "pw"}).problems[0]


def test_socks(server: int) -> None:
    port = serve_once(
        {
            b"\x05\x01\x00\x03": b"\x05\x00\x00\x01\x7f\x00\x00\x01\x00\x50",
            b"\x05\x01\x00": b"\x05\x00",
            b"GET /": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nDE",
        }
    )
    target = {"proxy_host": "127.0.0.1", "proxy_port": port, "host": "country.test", "port": 80}
    assert run("socks", target, {"contains": "^DE$"}).ok
    port = serve_once({b"\x05\x01\x00\x03": b"\x05\x05\x00\x01\x00\x00\x00\x00\x00\x00", b"\x05\x01\x00": b"\x05\x00"})
    assert "SOCKS reply 5" in run("socks", {**target, "proxy_port": port}).problems[0]


def test_log_dns_command(tmp_path: Path) -> None:
    log = tmp_path / "app.log"
    log.write_text("scan this QR code\nconnection: open\n")
    assert run("log", {"path": str(log), "lines": 1}, {"contains": "connection: open", "not_contains": "QR"}).ok
    assert not run("log", {"path": str(log)}, {"not_contains": "QR"}).ok
    assert run("dns", {"name": "localhost", "family": "ipv4"}, {"addresses": ["127.0.0.1"]}).ok
    assert run("command", {"argv": ["sh", "-c", "echo hi; exit 3"]}, {"rc": 3, "contains": "^hi$"}).ok
    assert not run("command", {"argv": ["false"]}).ok


@pytest.mark.parametrize(
    ("kind", "target", "expect", "named"),
    [
        ("http", {}, {}, "target.url"),
        ("tcp", {"host": "x", "port": 1, "prot": 2}, {}, "target.prot"),
        ("sql", {"query": "select 1"}, {"status": 1}, "expect.status"),
        ("log", {"path": "/x"}, {"contains": "("}, "regular expression"),
    ],
)
def test_bad_arguments_are_named(kind: str, target: dict[str, object], expect: dict[str, object], named: str) -> None:
    with pytest.raises(OperationsError, match=named):
        probes.check_arguments(kind, target, expect)


def test_percentiles_and_loss() -> None:
    values = [float(v) for v in range(1, 101)]
    assert (probes.percentile(values, 0.5), probes.percentile(values, 0.95), probes.percentile([], 0.5)) == (50, 95, None)
    samples = [probes.Sample(1.0, "", {}), probes.Sample(9.0, "lost", {})]
    assert not probes.judge("tcp", samples, {}).ok
    assert probes.judge("tcp", samples, {"loss": 0.5}).ok
    assert not probes.judge("tcp", [], {}).ok
