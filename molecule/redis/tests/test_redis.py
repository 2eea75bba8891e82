"""The running server, not its files."""

import re

import pytest

PASSWORD = "correct-horse/battery#staple'1"
OPERATOR = "operator-of-this-test-42"


def cli(host, password, *arguments, user=None, address="127.0.0.1"):
    words = ["redis-cli", "-h", address, "--no-auth-warning", *(["--user", user] if user else []), *arguments]
    quoted = " ".join("'" + word.replace("'", "'\\''") + "'" for word in words)
    secret = "'" + password.replace("'", "'\\''") + "'"
    return host.run(f"REDISCLI_AUTH={secret} {quoted}" if password else quoted).stdout.strip()


def test_service_runs_and_starts_at_boot(host):
    service = host.service("redis-server")
    assert service.is_running
    assert service.is_enabled


def test_answers_with_the_password_only(host):
    assert cli(host, PASSWORD, "ping") == "PONG"
    assert "NOAUTH" in cli(host, "", "ping")
    assert "WRONGPASS" in cli(host, "wrong-password-here", "ping") + host.run("REDISCLI_AUTH=wrong-password-here redis-cli ping").stderr


def test_listens_on_loopback_and_the_private_address_only(host):
    listening = set(re.findall(r"(\S+):6379\s", host.check_output("ss -Hltn 'sport = :6379'")))
    private = re.search(r"10\.93\.210\.\d+", host.check_output("ip -4 -o addr"))[0]
    assert listening == {"127.0.0.1", private}
    assert cli(host, PASSWORD, "ping", address=private) == "PONG"


@pytest.mark.parametrize(
    ("setting", "value"),
    [("maxmemory", str(64 * 1024 * 1024)), ("maxmemory-policy", "noeviction"), ("appendonly", "yes"), ("protected-mode", "yes")],
)
def test_effective_settings_after_it_rewrote_its_own_file(host, setting, value):
    assert cli(host, OPERATOR, "config", "get", setting, user="operator").split("\n")[1] == value


def test_users_may_do_what_is_declared(host):
    assert "NOPERM" in cli(host, PASSWORD, "config", "get", "maxmemory")
    assert "NOPERM" in cli(host, PASSWORD, "shutdown")
    assert cli(host, PASSWORD, "set", "bull:probe", "1") == "OK"
    assert "NOPERM" in cli(host, "reader-of-this-test-4242", "set", "bull:probe", "2", user="reader")
    assert cli(host, "reader-of-this-test-4242", "get", "bull:probe", user="reader") == "1"
    assert "NOPERM" in cli(host, "reader-of-this-test-4242", "get", "other", user="reader")


def test_what_it_held_survived_the_kill_and_the_restart(host):
    assert cli(host, PASSWORD, "get", "bull:job") == "kept"


def test_no_password_is_written_anywhere(host):
    found = host.run("grep -rlF -e 'correct-horse' -e 'operator-of-this-test' /etc/redis /etc/systemd/system /etc/sysctl.d")
    assert found.stdout == ""
    assert host.file("/etc/redis/users.acl").mode == 0o660
    assert host.file("/etc/redis/declared.conf").mode == 0o640


def test_the_sandbox_is_tight(host):
    level = float(re.search(r"level for \S+: ([\d.]+)", host.check_output("systemd-analyze security --no-pager redis-server"))[1])
    assert level <= 2.5


def test_the_kernel_lets_it_save(host):
    assert host.check_output("sysctl -n vm.overcommit_memory") == "1"
    assert "background_save_status:ok" in cli(host, OPERATOR, "info", "persistence", user="operator").replace(
        "rdb_last_bgsave_status", "background_save_status"
    )
