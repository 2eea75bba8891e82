"""The hardened machine as its daemons and its neighbours see it, after it was attacked and locked out on purpose."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import testinfra

testinfra_hosts = ["ansible://machines"]


def variables(host: Any) -> dict[str, Any]:
    found: dict[str, Any] = host.ansible.get_variables()
    return found


@pytest.fixture
def attacker(request: pytest.FixtureRequest) -> Any:
    inventory = request.config.getoption("ansible_inventory")
    return testinfra.get_host(f"ansible://attacker?ansible_inventory={inventory}")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("port", "22"),
        ("passwordauthentication", "no"),
        ("kbdinteractiveauthentication", "no"),
        ("permitrootlogin", "without-password"),
        ("x11forwarding", "no"),
        ("allowagentforwarding", "no"),
        ("authenticationmethods", "publickey"),
    ],
)
def test_what_sshd_takes_from_all_its_files(host: Any, key: str, value: str) -> None:
    assert [line.split()[1] for line in host.check_output("sshd -T").splitlines() if line.startswith(key + " ")] == [value]


def test_the_running_sshd_passes_the_policy(host: Any) -> None:
    """Asked over the network: the daemon that answers, not the file that it should have read."""
    release = host.system_info.release.split(".")[0]
    policy = {"12": "Hardened Debian 12 (version 3)", "13": "Hardened Debian 13 (version 1)"}[release]
    program = Path(sys.executable).parent / "ssh-audit"
    done = subprocess.run([program, "-P", policy, variables(host)["ansible_host"]], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_firewall_holds_what_is_declared_and_no_more(host: Any) -> None:
    status = host.check_output("ufw status verbose")
    assert "Status: active" in status
    assert (
        "Default: deny (incoming), allow (outgoing), deny (routed)" in status
        or "Default: deny (incoming), allow (outgoing), disabled (routed)" in status
    )
    rules = [line.split(" comment ")[0] for line in host.check_output("ufw show added").splitlines() if line.startswith("ufw ")]
    assert rules[1:] == ["ufw limit 22/tcp", "ufw allow 8080/tcp", "ufw allow from 10.93.210.200 to any port 8081 proto tcp"]
    assert rules[0].endswith("to any port 22 proto tcp")


def test_neighbours_reach_declared_ports_only(host: Any, attacker: Any) -> None:
    """The undeclared listener runs; what the neighbour found is the web port, and SSH unless the ban came before the scan."""
    assert host.socket("tcp://0.0.0.0:9999").is_listening
    found = json.loads(attacker.file("/root/scanned.json").content_string)
    assert 8080 in found
    assert set(found) <= {22, 8080}


def test_ipv6_is_guarded_too(host: Any) -> None:
    assert "policy DROP" in host.check_output("ip6tables -L INPUT -n").splitlines()[0]


def test_the_attacker_was_banned_and_we_were_not(host: Any) -> None:
    banned = host.check_output("fail2ban-client get sshd banned")
    with_attacker = json.loads(banned.replace("'", '"'))
    assert len(with_attacker) == 1
    assert variables(host)["ansible_host"].rsplit(".", 1)[0] == with_attacker[0].rsplit(".", 1)[0]


def test_the_ban_is_in_the_kernel(host: Any) -> None:
    assert "f2b" in host.check_output("nft list tables")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("net.ipv4.conf.all.accept_redirects", 0),
        ("net.ipv4.conf.all.rp_filter", 2),
        ("net.ipv4.tcp_syncookies", 1),
        ("net.ipv6.conf.all.accept_redirects", 0),
    ],
)
def test_kernel_limits_in_force(host: Any, name: str, value: int) -> None:
    assert host.sysctl(name) == value


def test_the_administrator_comes_in_and_may_do_all(host: Any) -> None:
    found = variables(host)
    key = found.get("ansible_private_key_file") or found["ansible_ssh_private_key_file"]
    command = ["ssh", "-i", key, "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null"]
    done = subprocess.run(
        [*command, f"admin@{found['ansible_host']}", "sudo -n id -u; umask"], capture_output=True, text=True, check=False, timeout=30
    )
    assert done.stdout.split() == ["0", "0027"], done.stderr


def test_security_updates_never_touch_the_database(host: Any) -> None:
    dump = host.check_output("apt-config dump")
    assert 'APT::Periodic::Unattended-Upgrade "1";' in dump
    assert 'Unattended-Upgrade::Package-Blacklist:: "^postgresql";' in dump
    assert 'Unattended-Upgrade::Automatic-Reboot "false";' in dump
    said = host.run("unattended-upgrade --dry-run --debug 2>&1")
    assert said.rc == 0
    assert "^postgresql" in said.stdout


def test_the_log_is_limited(host: Any) -> None:
    assert "SystemMaxUse=1G" in host.check_output("systemd-analyze cat-config systemd/journald.conf")
    assert host.service("systemd-journald").is_running


def test_no_way_back_is_armed_any_more(host: Any) -> None:
    assert "base-hardening-revert" not in host.check_output("systemctl list-timers --all")


def test_failed_logins_over_http_are_banned(host: Any) -> None:
    assert "10.93.210.77" in host.check_output("fail2ban-client get base-hardening-http banned")


@pytest.mark.parametrize("module", ["dccp", "sctp", "usb-storage"])
def test_modules_that_nobody_needs_are_not_loaded(host: Any, module: str) -> None:
    assert f"install {module.replace('-', '_')} /bin/false" in host.check_output("/usr/sbin/modprobe --showconfig").splitlines()


def test_no_core_dumps(host: Any) -> None:
    found = variables(host)
    key = found.get("ansible_private_key_file") or found["ansible_ssh_private_key_file"]
    command = ["ssh", "-i", key, "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null"]
    done = subprocess.run(
        [*command, f"admin@{found['ansible_host']}", "ulimit -Hc"], capture_output=True, text=True, check=False, timeout=30
    )
    assert done.stdout.strip() == "0", done.stderr


def test_the_clock_is_kept_and_serves_nobody(host: Any) -> None:
    assert host.service("chrony").is_running
    assert not any(":123" in socket or ":323" in socket for socket in host.socket.get_listening_sockets())


def test_files_of_cron_are_closed(host: Any) -> None:
    assert host.file("/etc/crontab").mode == 0o600
    assert host.file("/etc/sudoers.d").mode & 0o007 == 0
