"""``make bench-hardening``: our role on a blank machine, judged from outside (Lynis, ssh-audit, nmap), beside the dev-sec collection.

``DEVSEC_PATH`` names a folder with ``ansible_collections/devsec/hardening``: it then runs too, on a machine of its own.
``PROFILE`` (strict): the profile of our role.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hcloud import Client
from hcloud.images import Image
from hcloud.locations import Location
from hcloud.server_types import ServerType

from bench.harness import ROOT, machine, note, publish

NAME, INDEX = "bench-hardening", 42
POLICY = "Hardened Debian 12 (version 3)"
# The declared ports: SSH, and one of a service that the test starts.
DECLARED, UNDECLARED_LISTENER = {22, 8080}, 9999
PROFILE = os.environ.get("PROFILE", "strict")
# Measured once on such a machine under load (os and ssh roles of 10.6.0).
RECORDED: dict[str, Any] = {
    "contestant": "dev-sec 10.6.0 (recorded)",
    "lynis_index": 77,
    "ssh_audit_fail": 1,
    "ssh_audit_warn": 5,
    "ssh_audit_policy": False,
    "second_run_changed": 1,
    "seconds": 225.0,
}
OURS = """
- hosts: all
  become: true
  roles:
    - role: cutover.hetzner.base_hardening
      vars:
        base_hardening_profile: "{{ profile }}"
        base_hardening_admin_keys: ["{{ lookup('ansible.builtin.file', key ~ '.pub') }}"]
        base_hardening_ssh_trusted: ["{{ ansible_facts['env']['SSH_CONNECTION'].split()[0] }}"]
        base_hardening_firewall_rules: [{comment: web, port: "8080", proto: tcp, sources: []}]
"""
# Root's login stays, as ours leaves it; auditd cannot start in these machines.
DEVSEC = """
- hosts: all
  become: true
  vars: {os_auditd_enabled: false, ssh_permit_root_login: without-password}
  roles: [devsec.hardening.os_hardening, devsec.hardening.ssh_hardening]
"""


@dataclass(frozen=True)
class Judged:
    """What a machine shows to those outside, and how long it took."""

    contestant: str
    lynis_index: int
    ssh_audit_fail: int
    ssh_audit_warn: int
    ssh_audit_policy: bool
    undeclared_ports: int
    second_run_changed: int
    seconds: float


def levels(report: dict[str, Any]) -> tuple[int, int]:
    """(algorithms with a failure, with a warning and no failure) of ssh-audit's JSON report. Pure."""
    found = [entry.get("notes", {}) for kind in ("kex", "key", "enc", "mac") for entry in report[kind]]
    return sum("fail" in notes for notes in found), sum("warn" in notes and "fail" not in notes for notes in found)


def changed(said: str) -> int:
    """Changed tasks of a playbook's recap. Pure. Raises SystemExit where there is none."""
    found = re.search(r"\bchanged=(\d+)\s+unreachable=0\s+failed=0\b", said)
    if not found:
        raise SystemExit(f"the playbook did not end well:\n{said[-4000:]}")
    return int(found[1])


def open_ports(said: str) -> set[int]:
    """Open TCP ports of nmap's greppable output. Pure. Raises SystemExit where the host was not scanned."""
    if "Status: Up" not in said:
        raise SystemExit(f"nmap did not reach the machine:\n{said}")
    return {int(port) for port in re.findall(r"(\d+)/open/tcp", said)}


def localcloud(*words: str) -> str:
    command = [sys.executable, "-m", "localcloud", words[0], "--name", NAME, *words[1:]]
    return subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True, timeout=600).stdout


@contextmanager
def cloud() -> Iterator[Client]:
    """A local cloud of our own, removed at the end; what a killed run has left is removed at the beginning."""
    localcloud("down")
    try:
        localcloud("up", "--index", str(INDEX), "--images", "debian-12", "--speed", "0")
        said = dict(line.removeprefix("export ").split("=", 1) for line in localcloud("env").splitlines() if "=" in line)
        values = {name: shlex.split(value)[0] for name, value in said.items()}
        yield Client(token=values["HCLOUD_TOKEN"], api_endpoint=values["HCLOUD_ENDPOINT"])
    finally:
        localcloud("down")


class Machine:
    """A blank machine that answers SSH."""

    def __init__(self, client: Client, name: str, key: Path) -> None:
        self.key, self.known = key, key.with_name(f"known-{name}")
        public = key.with_suffix(".pub").read_text().strip()
        ssh_key = client.ssh_keys.get_by_name(NAME) or client.ssh_keys.create(name=NAME, public_key=public)
        made = client.servers.create(
            name=name,
            server_type=ServerType(name="cx23"),
            image=Image(name="debian-12"),
            location=Location(name="nbg1"),
            ssh_keys=[ssh_key],
        )
        made.action.wait_until_finished()
        network = made.server.public_net
        if network is None or network.ipv4 is None:
            raise SystemExit(f"{name} has no public IPv4 address")
        self.address = str(network.ipv4.ip)
        deadline = time.monotonic() + 60
        while subprocess.run(self.ssh("true"), capture_output=True, check=False, timeout=30).returncode:
            if time.monotonic() > deadline:
                raise SystemExit(f"{name} does not answer SSH at {self.address} after 60 s")
            time.sleep(0.5)

    @property
    def options(self) -> list[str]:
        return [
            "-i",
            str(self.key),
            "-o",
            f"UserKnownHostsFile={self.known}",
            "-o",
            "StrictHostKeyChecking=accept-new",
            "-o",
            "BatchMode=yes",
        ]

    def ssh(self, command: str) -> list[str]:
        return ["ssh", *self.options, f"root@{self.address}", command]

    def run(self, command: str) -> str:
        done = subprocess.run(self.ssh(command), stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=400)
        if done.returncode:
            raise SystemExit(f"{command}: {done.stdout}{done.stderr}")
        return done.stdout

    def play(self, text: str, collections: str) -> tuple[int, float]:
        """(changed tasks, seconds) of a playbook."""
        book = self.key.with_name("play.yml")
        book.write_text(text)
        extra = {"ansible_user": "root", "key": str(self.key), "profile": PROFILE, "ansible_ssh_private_key_file": str(self.key)}
        extra["ansible_ssh_common_args"] = shlex.join(self.options[2:])
        command = ["ansible-playbook", "-i", f"{self.address},", "-e", json.dumps(extra), str(book)]
        environment = {**os.environ, "ANSIBLE_COLLECTIONS_PATH": collections}
        began = time.monotonic()
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=900)
        return changed(done.stdout + done.stderr), time.monotonic() - began

    def judge(self, contestant: str, second: int, seconds: float) -> Judged:
        self.run(f"systemd-run --quiet --collect python3 -m http.server {UNDECLARED_LISTENER} --directory /var/empty")
        scanned = subprocess.run(
            ["nmap", "-Pn", "-n", "-p-", "-T4", "--min-rate", "2000", "-oG", "-", self.address],
            capture_output=True,
            text=True,
            check=True,
            timeout=400,
        )
        audit = Path(sys.executable).with_name("ssh-audit")
        report = subprocess.run([audit, "-j", "--skip-rate-test", self.address], capture_output=True, text=True, check=False, timeout=60)
        policy = subprocess.run([audit, "-P", POLICY, self.address], capture_output=True, text=True, check=False, timeout=60)
        failed, warned = levels(json.loads(report.stdout))
        self.run("apt-get -qq update && apt-get -qq install -y --no-install-recommends lynis >/dev/null 2>&1")
        self.run("lynis audit system --quick --no-colors </dev/null >/root/lynis.out 2>&1")
        index = int(self.run("grep ^hardening_index= /var/log/lynis-report.dat").split("=")[1])
        undeclared = open_ports(scanned.stdout) - DECLARED
        return Judged(contestant, index, failed, warned, policy.returncode == 0, len(undeclared), second, seconds)


def measure(client: Client, name: str, contestant: str, play: str, collections: str, key: Path) -> Judged:
    note(f"{contestant}: a blank machine")
    host = Machine(client, name, key)
    _changed, seconds = host.play(play, collections)
    note(f"{contestant}: {seconds:.0f} s, once more")
    second, _seconds = host.play(play, collections)
    note(f"{contestant}: nmap, ssh-audit and Lynis")
    return host.judge(contestant, second, seconds)


def main() -> None:
    began = machine()
    devsec = os.environ.get("DEVSEC_PATH", "")
    if devsec and not (Path(devsec) / "ansible_collections/devsec/hardening").is_dir():
        raise SystemExit(f"DEVSEC_PATH is {devsec!r}, expected a folder that holds ansible_collections/devsec/hardening")
    peer = dict(RECORDED)
    with tempfile.TemporaryDirectory() as folder, cloud() as client:
        key = Path(folder) / "key"
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True, timeout=30)
        ours = asdict(measure(client, "ours", f"base_hardening, {PROFILE}", OURS, str(ROOT / ".collections"), key))
        if devsec:
            site = next(Path(sys.executable).parents[1].glob("lib/python*/site-packages"))
            peer = asdict(measure(client, "devsec", "dev-sec (live)", DEVSEC, f"{devsec}:{site}", key))
    figures = {name: value for name, value in ours.items() if name != "contestant"}
    figures |= {"devsec_lynis_index": peer["lynis_index"], "devsec_seconds": peer["seconds"]}
    publish("hardening", figures, [ours, peer], began)


if __name__ == "__main__":
    main()
