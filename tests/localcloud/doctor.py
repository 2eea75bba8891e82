"""Checks of this host: what machines need of it, and what an interrupted run may have left."""

from __future__ import annotations

import gzip
import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from localcloud import instance as instances
from localcloud.backend import BackendError
from localcloud.instance import CACHE_ROOT, STATE_ROOT, load_process
from localcloud.machines import host, image
from localcloud.machines.inherit import SUITES, apt_entries, nameservers
from localcloud.machines.shell import attempt

NEEDED_KERNEL = (
    "OVERLAY_FS",
    "VETH",
    "BRIDGE",
    "NF_TABLES",
    "NF_TABLES_INET",
    "NFT_NAT",
    "NFT_MASQ",
    "NFT_CT",
    "NET_NS",
    "PID_NS",
    "BLK_DEV_LOOP",
)
FREE_GB = 5


@dataclass(frozen=True)
class Finding:
    """ok, what was looked at, what was found, what to do (empty when ok)."""

    ok: bool
    what: str
    found: str
    remedy: str = ""


def kernel() -> Finding:
    """Features as the running kernel's configuration tells them; a module counts."""
    version = Path("/proc/sys/kernel/osrelease").read_text().strip()
    paths = [Path("/proc/config.gz"), Path(f"/boot/config-{version}")]
    path = next((path for path in paths if path.exists()), None)
    if path is None:
        return Finding(True, "kernel", f"{version}, configuration not readable: trying `up` will tell")
    text = gzip.decompress(path.read_bytes()).decode() if path.suffix == ".gz" else path.read_text()
    missing = [name for name in NEEDED_KERNEL if not re.search(rf"^CONFIG_{name}=[ym]", text, re.MULTILINE)]
    remedy = "use a kernel that has them (Debian's stock kernel does)" if missing else ""
    return Finding(
        not missing, "kernel", f"{version}, lacks {', '.join(missing)}" if missing else f"{version} has all that is needed", remedy
    )


def tools() -> Finding:
    missing = host.missing_packages()
    return Finding(
        not missing,
        "programs",
        f"missing: {', '.join(missing)}" if missing else "all there",
        "`up` installs them, or: apt-get install" if missing else "",
    )


def groups() -> Finding:
    try:
        where = host.unified_hierarchy()
    except BackendError as error:
        return Finding(False, "cgroup2", "not mounted", str(error))
    version = Path("/proc/sys/kernel/osrelease").read_text().strip()
    number = tuple(int(part) for part in re.findall(r"\d+", version)[:2])
    if number < (5, 14):
        return Finding(
            False, "cgroup2", f"on {where}, kernel {version}", "use kernel 5.14 or newer: machines are ended through cgroup.kill"
        )
    return Finding(True, "cgroup2", f"on {where}")


def archive() -> Finding:
    try:
        count = len(apt_entries(SUITES["debian-12"]))
    except BackendError as error:
        return Finding(False, "apt sources", "none of Debian", str(error))
    return Finding(True, "apt sources", f"{count} entries of the Debian archive are passed on to machines")


def resolver() -> Finding:
    found = nameservers()
    remedy = "" if found else "write a resolver that is not on loopback into /etc/resolv.conf; machines ask it through their gateway"
    return Finding(bool(found), "resolver", found[0] if found else "only on loopback, or none", remedy)


def space_left() -> Finding:
    where = next(path for path in (STATE_ROOT, *STATE_ROOT.parents) if path.exists())
    free = shutil.disk_usage(where).free / 1e9
    return Finding(free >= FREE_GB, "disk", f"{free:.0f} GB free below {where}", "" if free >= FREE_GB else f"free at least {FREE_GB} GB")


def file_system() -> Finding:
    where = next(path for path in (STATE_ROOT, *STATE_ROOT.parents) if path.exists())
    kind = attempt(["stat", "-f", "-c", "%T", where]).stdout.strip()
    bad = kind in ("overlayfs", "nfs", "vfat", "fuseblk")
    return Finding(
        not bad, "state", f"{STATE_ROOT} on {kind}", "set CUTOVER_LOCALCLOUD_STATE to a directory on ext4, xfs or btrfs" if bad else ""
    )


def forwarding() -> Finding:
    """Another firewall that drops what is forwarded would cut machines off the archive."""
    chains = json.loads(attempt(["nft", "-j", "list", "chains"]).stdout or "{}").get("nftables", [])
    blocking = [
        entry["chain"]["table"]
        for entry in chains
        if entry.get("chain", {}).get("hook") == "forward" and entry["chain"].get("policy") == "drop"
    ]
    remedy = "let packets from and to interfaces lc* through there" if blocking else ""
    return Finding(
        not blocking, "forwarding", f"dropped by default in nft table {', '.join(blocking)}" if blocking else "not blocked", remedy
    )


def cached() -> Finding:
    ready = [name for name in SUITES if image.path_of(name).exists()]
    stale = [path.name for path in CACHE_ROOT.glob(".building-*")] if CACHE_ROOT.exists() else []
    return Finding(
        True,
        "images",
        f"cached: {', '.join(ready) or 'none'}" + (f"; half built: {', '.join(stale)} (the next build removes it)" if stale else ""),
    )


def leftovers() -> list[Finding]:
    """Links, tables, groups and processes that no recorded instance owns, or that a dead one left."""
    found = []
    known = instances.everyone()
    for instance in known:
        if instance.backend == "nspawn" and not load_process(instance.directory / "supervisor.json"):
            found.append(
                Finding(
                    False,
                    f"instance {instance.name}",
                    "recorded, but its namespaces are not up",
                    f"run `up --name {instance.name}` or `down --name {instance.name}`",
                )
            )
        elif not load_process(instance.directory / "api.json"):
            found.append(
                Finding(
                    False,
                    f"instance {instance.name}",
                    "its API does not run",
                    f"run `up --name {instance.name}`; see {instance.directory}/api.log",
                )
            )
    links = [path.name for path in Path("/sys/class/net").glob("lc[0-9]*") if path.name not in {instance.link for instance in known}]
    found += [Finding(False, "link", f"{name} belongs to no recorded instance", f"ip link del {name}") for name in links]
    for entry in json.loads(attempt(["nft", "-j", "list", "tables"]).stdout or "{}").get("nftables", []):
        name = entry.get("table", {}).get("name", "")
        if name.startswith("cutover_localcloud_") and name not in {instance.table for instance in known}:
            found.append(Finding(False, "nft table", f"{name} belongs to no recorded instance", f"nft delete table ip {name}"))
    return found


def examine() -> int:
    """Print all findings; returns 1 when something has to be done."""
    checks = [kernel(), tools(), groups(), archive(), resolver(), space_left(), file_system(), forwarding(), cached(), *leftovers()]
    if not host.is_root():
        checks.append(Finding(False, "user", "not root", "machines need root; --backend none does not"))
    for check in checks:
        print(f"{'ok  ' if check.ok else 'FAIL'} {check.what}: {check.found}" + (f" -> {check.remedy}" if check.remedy else ""))
    return 0 if all(check.ok for check in checks) else 1
