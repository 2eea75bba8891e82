"""The running cluster after its leader was killed and the lead was handed over: what it does, not what its files say."""

from __future__ import annotations

import json
import shlex
import time
from typing import Any

import pytest

testinfra_hosts = ["ansible://machines"]
TLS = "/etc/patroni/tls"


def address(host: Any) -> str:
    return str(host.ansible.get_variables()["private_ips"]["private"])


def sql(host: Any, statement: str) -> str:
    return str(host.check_output("cd / && runuser -u postgres -- psql -XAtq -d app -c %s", statement)).strip()


def cluster(host: Any) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(host.check_output(f"curl -sS --fail --cacert {TLS}/ca.crt https://{address(host)}:8008/cluster"))
    return found


def leads(host: Any) -> bool:
    return sql(host, "SELECT pg_is_in_recovery()") == "f"


@pytest.mark.parametrize("name", ["etcd", "patroni"])
def test_services_run_and_come_back_after_a_reboot(host: Any, name: str) -> None:
    assert host.service(name).is_running
    assert host.service(name).is_enabled


def test_three_members_one_leader_one_synchronous(host: Any) -> None:
    roles = sorted(member["role"] for member in cluster(host)["members"])
    assert roles == ["leader", "replica", "sync_standby"]
    assert {member["state"] for member in cluster(host)["members"]} <= {"running", "streaming"}


def test_every_member_knows_its_timeline(host: Any) -> None:
    """A replica that cannot ask its own server for it would not notice that it has to be rewound."""
    found = json.loads(host.check_output(f"curl -sS --cacert {TLS}/ca.crt https://{address(host)}:8008/patroni"))
    assert found["timeline"] == next(member["timeline"] for member in cluster(host)["members"] if member["role"] == "leader")
    log = host.check_output("journalctl -u patroni --no-pager --since=-15s")
    assert "Can not fetch local timeline" not in log


def test_every_acknowledged_row_is_on_every_member(host: Any) -> None:
    # A member that follows a new timeline asks for it every five seconds, and the asynchronous one owes nobody its rows at once:
    # the leader must hold them now, the others when they have caught up.
    wanted, patience = "1500|1|1500", 0.0 if leads(host) else 60.0
    deadline = time.monotonic() + patience
    while (found := sql(host, "SELECT count(*), min(n), max(n) FROM kept")) != wanted and time.monotonic() < deadline:
        time.sleep(0.5)
    assert found == wanted


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("data_checksums", "on"),
        ("wal_level", "logical"),
        ("password_encryption", "scram-sha-256"),
        ("ssl", "on"),
        ("shared_buffers", "128MB"),
        ("max_connections", "100"),
    ],
)
def test_settings_in_force(host: Any, name: str, value: str) -> None:
    assert sql(host, f"SHOW {name}") == value


def test_the_declared_slot_is_on_every_member(host: Any) -> None:
    assert sql(host, "SELECT plugin FROM pg_replication_slots WHERE slot_name = 'way_back'") == "pgoutput"


def test_nothing_listens_on_the_public_address(host: Any) -> None:
    listening = host.check_output("ss -Hltn").split("\n")
    for line in listening:
        local, port = line.split()[3].rsplit(":", 1)
        if port in {"5432", "8008", "2379", "2380"}:
            assert local in {address(host), "127.0.0.1"}, line


def connect(host: Any, options: str, password: str) -> Any:
    text = f"host={address(host)} dbname=app user=app {options}"
    return host.run(
        f"PGPASSWORD={shlex.quote(password)} psql -XAtq {shlex.quote(text)} -c 'SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()'"
    )


def test_remote_clients_need_tls_and_the_right_password(host: Any) -> None:
    assert connect(host, f"sslmode=verify-full sslrootcert={TLS}/ca.crt", "pä'ss$word").stdout.strip() == "t"
    plain = connect(host, "sslmode=disable", "pä'ss$word")
    assert plain.rc != 0 and "no encryption" in plain.stderr
    wrong = connect(host, "sslmode=require", "wrong")
    assert wrong.rc != 0 and "password authentication failed" in wrong.stderr


def test_passwords_are_stored_as_scram_only(host: Any) -> None:
    assert sql(host, "SELECT count(*) FROM pg_authid WHERE rolpassword NOT LIKE 'SCRAM-SHA-256$%'") == "0"


def test_the_database_is_closed_to_those_not_named(host: Any) -> None:
    assert (
        sql(host, "SELECT has_database_privilege('authenticator', 'app', 'CONNECT'), has_database_privilege('anon', 'app', 'CONNECT')")
        == "t|f"
    )


def test_the_rest_interface_changes_nothing_without_its_password(host: Any) -> None:
    answer = host.check_output(
        f"curl -sS -o /dev/null -w '%{{http_code}}' --cacert {TLS}/ca.crt -X PATCH -d '{{\"ttl\": 99}}' https://{address(host)}:8008/config"
    )
    assert answer == "401"


def test_the_store_answers_nobody_without_a_certificate(host: Any) -> None:
    assert host.run(f"curl -sS --max-time 5 --cacert {TLS}/ca.crt https://{address(host)}:2379/version").rc != 0
    with_one = host.run(
        f"curl -sS --max-time 5 --cacert {TLS}/ca.crt --cert {TLS}/server.crt --key {TLS}/server.key https://{address(host)}:2379/version"
    )
    assert "etcdserver" in with_one.stdout


def test_secrets_are_readable_by_their_owners_only(host: Any) -> None:
    config = host.file("/etc/patroni/config.yml")
    assert (config.user, config.mode) == ("postgres", 0o600)
    key = host.file(f"{TLS}/server.key")
    assert (key.user, key.group, key.mode) == ("root", "ssl-cert", 0o640)


def test_no_password_is_in_the_logs_or_on_a_command_line(host: Any) -> None:
    for secret in ("molecule-replication", "molecule-rewind", "molecule-rest", "molecule-auth"):
        pattern = secret[:-1] + f"[{secret[-1]}]"
        assert host.run(f"journalctl --no-pager -a | grep -q {pattern}").rc == 1
        assert host.run(f"ps -eo args | grep -q {pattern}").rc == 1


def test_exactly_one_member_takes_writes(host: Any) -> None:
    leader = next(member["name"] for member in cluster(host)["members"] if member["role"] == "leader")
    assert leads(host) == (leader == host.ansible.get_variables()["inventory_hostname"])


def test_the_unit_is_sandboxed(host: Any) -> None:
    shown = dict(
        line.split("=", 1)
        for line in host.check_output("systemctl show patroni -p NoNewPrivileges,ProtectSystem,CapabilityBoundingSet").splitlines()
    )
    assert shown == {"NoNewPrivileges": "yes", "ProtectSystem": "strict", "CapabilityBoundingSet": ""}
