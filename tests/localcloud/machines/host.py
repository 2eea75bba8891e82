"""What an instance needs of the host itself, and how it is given back: packages, kernel settings, one route, one link, one nft table."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

from localcloud.backend import BackendError
from localcloud.instance import STATE_ROOT, WHOLE_RANGE, Instance, everyone, locked, write_atomically
from localcloud.machines.firewall import NEVER_OUTSIDE, collapse
from localcloud.machines.inherit import nameservers, needed_private
from localcloud.machines.network import router_macs
from localcloud.machines.shell import attempt, run

PROGRAMS = {
    "mmdebstrap": "mmdebstrap", "systemd-nspawn": "systemd-container", "nft": "nftables", "ip": "iproute2",
    "ssh-keygen": "openssh-client", "losetup": "mount", "mkfs.ext4": "e2fsprogs", "openssl": "openssl",
}  # fmt: skip
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
# Name, value: systemd machines need many inotify instances; without forwarding machines do not reach the archive.
SYSCTLS = {"fs/inotify/max_user_instances": 2048, "net/ipv4/ip_forward": 1}
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def missing_packages() -> list[str]:
    missing = [package for program, package in PROGRAMS.items() if not shutil.which(program)]
    return missing + ([] if KEYRING.exists() else ["debian-archive-keyring"])


def install_packages() -> list[str]:
    """Install what is missing; returns what was installed."""
    missing = missing_packages()
    if missing:
        environment = ["env", "DEBIAN_FRONTEND=noninteractive"]
        if attempt([*environment, "apt-get", "-qq", "install", "-y", *missing], seconds=600).returncode:
            run([*environment, "apt-get", "-qq", "update"], seconds=300)
            run([*environment, "apt-get", "-qq", "install", "-y", *missing], seconds=600)
    return missing


def unified_hierarchy() -> Path:
    """Where cgroup v2 is mounted on the host."""
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _device, where, kind = line.split()[:3]
        if kind == "cgroup2":
            return Path(where)
    raise BackendError("no cgroup2 file system is mounted: mount one with `mount -t cgroup2 none /sys/fs/cgroup/unified`")


def hold() -> None:
    """Make the host ready for the first instance; remembers what was before. Must be called before a machine exists."""
    with locked(STATE_ROOT / ".host.lock"):
        path = STATE_ROOT / ".host.json"
        boot = BOOT_ID.read_text().strip()
        saved = json.loads(path.read_text()) if path.exists() else {}
        if saved.get("boot") != boot:
            settings = {name: int((Path("/proc/sys") / name).read_text()) for name in SYSCTLS}
            saved = {"boot": boot, "sysctls": settings, "route": not blackholed()}
            write_atomically(path, json.dumps(saved))
        if not blackholed():
            run(["ip", "route", "add", "blackhole", WHOLE_RANGE])
        for name, value in SYSCTLS.items():
            file = Path("/proc/sys") / name
            if int(file.read_text()) < value:
                file.write_text(str(value))


def release() -> bool:
    """Give back what ``hold`` took, when no instance with machines is left. Returns whether it did."""
    with locked(STATE_ROOT / ".host.lock"):
        path = STATE_ROOT / ".host.json"
        if not path.exists() or any(instance.backend == "nspawn" for instance in everyone()):
            return False
        saved = json.loads(path.read_text())
        if saved["boot"] == BOOT_ID.read_text().strip():
            for name, value in saved["sysctls"].items():
                (Path("/proc/sys") / name).write_text(str(value))
            if saved["route"] and blackholed():
                run(["ip", "route", "del", "blackhole", WHOLE_RANGE])
        path.unlink()
        return True


def blackholed() -> bool:
    return any(
        route.get("type") == "blackhole" for route in json.loads(run(["ip", "-json", "route", "show", "exact", WHOLE_RANGE]) or "[]")
    )


def host_rules(instance: Instance, resolvers: list[str], needed: tuple[str, ...]) -> str:
    """The instance's nft table on the host: machines reach the world under the host's address, and nothing of the lab's ranges gets through."""
    exceptions = f"iifname {instance.link} ip daddr {{ {', '.join(needed)} }} accept" if needed else ""
    resolver = (
        f"iifname {instance.link} ip daddr {instance.gateway} meta l4proto {{ tcp, udp }} th dport 53 dnat to {resolvers[0]}"
        if resolvers
        else ""
    )
    return f"""table ip {instance.table}
delete table ip {instance.table}
table ip {instance.table} {{
  chain guard {{
    type filter hook prerouting priority -150; policy accept;
    iifname {instance.link} ip saddr != {instance.public_range} counter drop
  }}
  chain resolve {{
    type nat hook prerouting priority -100; policy accept;
    {resolver}
  }}
  chain forward {{
    type filter hook forward priority 0; policy accept;
    iifname {instance.link} ip daddr {WHOLE_RANGE} counter drop
    iifname {instance.link} ct status dnat accept
    {exceptions}
    iifname {instance.link} ip daddr {{ {collapse(NEVER_OUTSIDE)} }} counter drop
    oifname {instance.link} ip saddr {WHOLE_RANGE} counter drop
  }}
  chain leave {{
    type nat hook postrouting priority 100; policy accept;
    ip saddr {instance.public_range} ip daddr != {WHOLE_RANGE} oifname != {instance.link} masquerade
  }}
}}
"""


def connect(instance: Instance, supervisor: int) -> None:
    """The link between the host and the instance's network namespace, and the host's rules for it."""
    disconnect(instance)
    run(["nft", "-f", "-"], stdin=host_rules(instance, nameservers(), needed_private()))
    here, there = router_macs(instance.index)
    run(
        ["ip", "-batch", "-"],
        stdin=f"""link add {instance.link} address {here} type veth peer name up0 address {there} netns {supervisor}
address add {instance.gateway}/24 dev {instance.link}
link set {instance.link} up
""",
    )
    switch = Path(f"/proc/sys/net/ipv6/conf/{instance.link}/disable_ipv6")
    if switch.exists():
        switch.write_text("1")


def disconnect(instance: Instance) -> None:
    """Remove the link and the table, if they are there."""
    if Path(f"/sys/class/net/{instance.link}").exists():
        run(["ip", "link", "del", instance.link])
    run(["nft", "-f", "-"], stdin=f"table ip {instance.table}\ndelete table ip {instance.table}\n")


def is_root() -> bool:
    return os.geteuid() == 0
