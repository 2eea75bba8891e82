"""Case 28, the way to a source: only IPv6, poolers in both modes, wrong password, TLS. Each with a precise message."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer import preflight, session
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.copy import copy
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.endpoint import Endpoint
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.errors import TransferError
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.findings import Finding
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.selection import Selection
from integration.conftest import Pair, Server
from pgservers import bouncer

ALL = Selection.from_args()
NAME = "db.example.test"
ONLY_IPV6 = """
import json, sys
from dataclasses import asdict
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer import preflight
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.endpoint import Endpoint
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.selection import Selection
for name in sys.argv[1:]:
    source = Endpoint.from_args({"host": name, "dbname": "d", "user": "u", "password": "p"})
    print(json.dumps([asdict(one) for one in preflight.preflight(source, None, Selection.from_args(), preflight.Wish()).findings]))
"""


def first(endpoint: Endpoint, **wish: Any) -> Finding:
    return preflight.preflight(endpoint, None, ALL, preflight.Wish(**wish)).findings[0]


def settings_left_behind(args: dict[str, Any], dbname: str) -> set[tuple[Any, ...]]:
    """What another client of the pooler finds on each session that it is given."""
    query = "SELECT current_setting('default_transaction_read_only'), current_setting('search_path'), current_setting('row_security')"
    found: set[tuple[Any, ...]] = set()
    clients = [psycopg.connect(dbname=dbname, autocommit=True, prepare_threshold=None, **args) for _unused in range(4)]
    for client in clients:
        client.execute("BEGIN")
    for client in clients:
        found |= set(client.execute(query).fetchall())
        client.close()
    return found


def test_case_28_a_transaction_pooler_is_known_by_its_behaviour_and_left_as_it_was(pair: Pair) -> None:
    pair.on_source("CREATE TABLE a (id int PRIMARY KEY)")
    with bouncer(pair.source_server, "transaction") as pooler:
        pooled = Endpoint.from_args(pooler.args(pair.dbname))
        found = first(pooled)
        assert (found.rule, found.severity) == ("pooler-transaction", "error") and "keeps neither settings nor snapshots" in found.problem
        assert "direct address" in found.fix
        with pytest.raises(TransferError) as refused:
            copy(pooled, pair.target, ALL, workers=1)
        assert refused.value.details["kind"] == "transaction_pooler"
        assert settings_left_behind(pooler.args(), pair.dbname) == {("off", '"$user", public', "on")}


def test_case_28_a_session_pooler_copies_with_fewer_workers_and_says_that_it_cannot_stream(pair: Pair) -> None:
    pair.on_both("CREATE TABLE a (id int PRIMARY KEY)")
    pair.on_source("INSERT INTO a SELECT generate_series(1, 500)")
    with bouncer(pair.source_server, "session") as pooler:
        pooled = Endpoint.from_args(pooler.args(pair.dbname))
        report = preflight.preflight(pooled, pair.target, ALL, preflight.Wish(workers=2, max_connections=15))
        told = [one for one in report.findings if one.rule == "pooler-session"]
        assert report.ok and [one.object for one in told] == ["source"] and "cannot be streamed" in told[0].problem
        assert not any(
            one.rule == "pooler-session" for one in preflight.preflight(pair.source, pair.target, ALL, preflight.Wish(2)).findings
        )
        crowded = preflight.preflight(pooled, None, ALL, preflight.Wish(workers=13, max_connections=15)).findings[0]
        assert (crowded.rule, crowded.fix) == ("workers", "Set workers to 12 or less, or use the direct address.")
        assert copy(pooled, pair.target, ALL, workers=2).rows == 500
        with pytest.raises(TransferError) as refused:
            session.connect(pooled, application_name="case 28", replication=True)
        assert "pooler" in refused.value.message


def test_case_28_a_name_with_only_ipv6_and_no_route_is_told_from_a_server_that_is_down(tmp_path: Path) -> None:
    """In a network of its own, without any route: nothing is sent anywhere."""
    (tmp_path / "hosts").write_text(f"2001:db8::5 {NAME} db.abc.supabase.co\n2001:db8::5 both.test\n127.0.0.1 both.test localhost\n")
    names = f"{NAME} db.abc.supabase.co both.test unheard.of.test 2001:db8::5"
    inside = f"mount --bind '{tmp_path}/hosts' /etc/hosts && ip link set lo up && exec '{sys.executable}' - {names}"
    done = subprocess.run(
        ["unshare", "--map-root-user", "--mount", "--net", "sh", "-c", inside],
        input=ONLY_IPV6,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert done.returncode == 0, done.stderr
    plain, hosted, both, unknown, literal = (json.loads(line)[0] for line in done.stdout.splitlines())
    for found in (plain, hosted, literal):
        assert found["rule"] == "ipv6-only" and "only IPv6 addresses (2001:db8::5)" in found["problem"], found
    assert "IPv4 add-on" in hosted["fix"] and "session pooler on port 5432" in hosted["fix"] and "add-on" not in plain["fix"]
    assert both["rule"] == "connection" and "cannot be reached" in both["problem"]
    assert unknown["rule"] == "connection" and "does not resolve" in unknown["problem"]


def test_case_28_wrong_names_and_passwords_are_told_apart(pair: Pair) -> None:
    server, database = pair.source_server, pair.dbname
    wrong = first(server.endpoint(database, password="not-it"))
    assert "refuses the password of role postgres" in wrong.problem and "not-it" not in f"{wrong}"
    assert "wants a password" in first(server.endpoint(database, password=None)).problem
    assert "database nowhere does not exist" in first(server.endpoint("nowhere")).problem
    numbered = Endpoint.from_args({**server.args(database), "port": 6543})
    assert first(numbered).rule in ("pooler-transaction", "connection")
    assert any(one.rule == "pooler-transaction" for one in preflight.preflight(numbered, None, ALL, preflight.Wish()).findings)


@pytest.fixture
def authority(tmp_path: Path) -> Path:
    """Folder with two authorities (ca.crt, other.crt) and a certificate for NAME by the first."""

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=tmp_path, check=True, capture_output=True, timeout=60)

    curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    for name in ("ca", "other"):
        openssl("req", "-x509", *curve, "-keyout", f"{name}.key", "-out", f"{name}.crt", "-subj", f"/CN=test {name}", "-days", "2")
    openssl("req", *curve, "-keyout", "server.key", "-out", "server.csr", "-subj", f"/CN={NAME}")
    (tmp_path / "names").write_text(f"subjectAltName=DNS:{NAME}\n")
    signing = ("-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial", "-extfile", "names", "-days", "2")
    openssl("x509", "-req", "-in", "server.csr", *signing, "-out", "server.crt")
    return tmp_path


@pytest.fixture
def encrypted(pair: Pair, authority: Path) -> Iterator[Server]:
    """The source with TLS, until the test ends."""
    server = pair.source_server
    for name in ("server.crt", "server.key"):
        place = server.data / name
        place.write_bytes((authority / name).read_bytes())
        os.chown(place, server.data.stat().st_uid, server.data.stat().st_gid)
        place.chmod(0o600)
    server.execute("postgres", "ALTER SYSTEM SET ssl = on", "SELECT pg_reload_conf()")
    try:
        yield server
    finally:
        server.execute("postgres", "ALTER SYSTEM RESET ssl", "SELECT pg_reload_conf()")


def test_case_28_tls_reasons(pair: Pair, encrypted: Server, authority: Path) -> None:
    def strict(server: Server, **more: str) -> Finding:
        given = {**server.args(pair.dbname), "sslmode": "verify-full", **more}
        return first(Endpoint.from_args(given))

    right, other = str(authority / "ca.crt"), str(authority / "other.crt")
    assert "is for another name than 127.0.0.1" in strict(encrypted, sslrootcert=right).problem
    assert "signed by an authority that sslrootcert does not hold" in strict(encrypted, sslrootcert=other).problem
    assert "no file with the authorities to trust" in strict(encrypted, sslrootcert=str(authority / "absent.crt")).problem
    assert "offers no TLS" in strict(pair.target_server, sslrootcert=right).problem
    dsn = f"host={NAME} hostaddr=127.0.0.1 port={encrypted.port} dbname={pair.dbname} user=postgres sslmode=verify-full sslrootcert={right}"
    pair.on_source("CREATE TABLE a (id int PRIMARY KEY)")
    named = Endpoint.from_args({"dsn": dsn, "password": encrypted.args("")["password"]})
    assert preflight.preflight(named, None, ALL, preflight.Wish(2)).ok
    with session.connect(named, application_name="case 28") as conn:
        assert conn.pgconn.ssl_in_use
