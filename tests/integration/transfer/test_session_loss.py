"""What is said when a link goes away, by real servers through a relay, with TLS and without: always known as a lost link, in any language."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
import pytest
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer import pipe, session
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.endpoint import Endpoint
from bench.relay import Relay
from integration.conftest import Server, own
from pgservers import PASSWORD, Fleet, debian_programs

Conn = psycopg.Connection[Any]
Hit = Callable[[], object]


@pytest.fixture(scope="module")
def encrypted() -> Iterator[Server]:
    """A server that offers TLS."""
    with Fleet({"shared_buffers": "32MB"}) as fleet:
        server = own(fleet.start(encrypted=debian_programs())[0])
        key, certificate = server.data / "server.key", server.data / "server.crt"
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
            + ["-subj", "/CN=test", "-keyout", str(key), "-out", str(certificate)],
            check=True,
            capture_output=True,
            timeout=60,
        )
        owner = server.home.stat()
        for file in (key, certificate):
            os.chown(file, owner.st_uid, owner.st_gid)
            file.chmod(0o600)
        server.execute(
            "postgres", "CREATE TABLE t (a text)", "CREATE TABLE big AS SELECT repeat('x', 1000) a FROM generate_series(1, 50000)"
        )
        server.execute("postgres", "ALTER SYSTEM SET ssl = on", "SELECT pg_reload_conf()")
        yield server


def executed(conn: Conn, hit: Hit) -> None:
    hit()
    conn.execute("SELECT 1")


def bare(conn: Conn, hit: Hit) -> None:
    hit()
    pipe.run(pipe.bare(conn), "SELECT 1")


def copied_out(conn: Conn, hit: Hit) -> None:
    pgconn = pipe.bare(conn)
    pipe.run(pgconn, "COPY public.big TO STDOUT")
    pgconn.get_copy_data(0)
    hit()
    while pgconn.get_copy_data(0)[0] >= 0:
        pass


def copied_in(conn: Conn, hit: Hit) -> None:
    pgconn = pipe.bare(conn)
    pipe.run(pgconn, "COPY public.t FROM STDIN")
    hit()
    for _unused in range(50_000):
        pgconn.put_copy_data(b"x" * 1000 + b"\n")


def ended(conn: Conn, hit: Hit) -> None:
    pgconn = pipe.bare(conn)
    pipe.run(pgconn, "COPY public.t FROM STDIN")
    pgconn.put_copy_data(b"x\n")
    hit()
    pgconn.put_copy_end()
    result = pgconn.get_result()
    assert result is not None
    pipe.run(pgconn, "SELECT 1")


def waited(conn: Conn, hit: Hit) -> None:
    later = threading.Timer(0.5, hit)
    later.start()
    try:
        conn.execute("SELECT pg_sleep(60)")
    finally:
        later.join()


def closed(conn: Conn, hit: Hit) -> None:
    hit()
    conn.close()
    conn.execute("SELECT 1")


@pytest.mark.parametrize("doing", [executed, bare, copied_out, copied_in, ended, waited, closed])
@pytest.mark.parametrize("how", ["reset", "vanish"])
@pytest.mark.parametrize("sslmode", ["disable", "require"])
def test_a_link_that_breaks_is_lost(encrypted: Server, sslmode: str, how: str, doing: Callable[[Conn, Hit], None]) -> None:
    with Relay(encrypted.port) as relay:
        # Looked after every second instead of every thirty.
        dsn = f"host=127.0.0.1 port={relay.port} dbname=postgres user=postgres password={PASSWORD} sslmode={sslmode}"
        quick = f"{dsn} keepalives_idle=1 keepalives_interval=1 keepalives_count=2"
        conn = session.connect(Endpoint.from_args({"dsn": quick}), application_name="test")
        try:
            assert conn.pgconn.ssl_in_use is (sslmode == "require")
            with pytest.raises(psycopg.OperationalError) as caught:
                doing(conn, relay.reset if how == "reset" else relay.vanish)
        finally:
            conn.close()
    assert caught.value.sqlstate is None and session.is_lost(caught.value), str(caught.value)


def test_what_we_do_wrong_is_no_lost_link(encrypted: Server) -> None:
    with closing(session.connect(encrypted.endpoint("postgres"), application_name="test")) as conn:
        pgconn = pipe.bare(conn)

        def two_at_once() -> None:
            for _unused in range(2):
                pgconn.send_query(b"SELECT 1")

        wrongs: list[Callable[[], object]] = [
            lambda: pgconn.put_copy_data(b"x"),
            pgconn.put_copy_end,
            lambda: pgconn.get_copy_data(0),
            two_at_once,
        ]
        for wrong in wrongs:
            with pytest.raises(psycopg.OperationalError) as caught:
                wrong()
            assert caught.value.sqlstate is None and not session.is_lost(caught.value), str(caught.value)


ABROAD = """
import locale, sys
locale.setlocale(locale.LC_ALL, "")
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer import session
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.endpoint import Endpoint
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.errors import TransferError
import psycopg
try:
    psycopg.connect("host=127.0.0.1 port=1 user=u dbname=d")
except psycopg.OperationalError as error:
    print("refused" in str(error), psycopg.pq.__impl__)
try:
    session.connect(Endpoint.from_args({"host": "127.0.0.1", "port": 1, "dbname": "d", "user": "u"}), application_name="test")
except TransferError as error:
    print(error.details["kind"])
"""


@pytest.mark.parametrize("implementation", ["binary", "python"])
def test_a_users_language_changes_no_meaning(implementation: str) -> None:
    """``python`` has the system's libpq, which comes with its translations; the other one's words are its own, but not the system's."""
    paths = [str(Path(__file__).parents[2]), str(Path(__file__).parents[3] / ".collections")]
    speaks = {"LC_ALL": "C.UTF-8", "LANGUAGE": "de", "PSYCOPG_IMPL": implementation, "PYTHONPATH": os.pathsep.join(paths)}
    told = subprocess.run(
        [sys.executable, "-c", ABROAD], env={**os.environ, **speaks}, check=True, capture_output=True, text=True, timeout=60
    ).stdout.split()
    assert told[1:] == [implementation, "unreachable"]
    if implementation == "python":
        assert told[0] == "False", "this machine's libpq speaks English only, so this shows nothing"
