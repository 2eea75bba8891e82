"""Images: a Debian root directory for each release, built once from the host's own archive and cached."""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
import time
from pathlib import Path

from localcloud.backend import BackendError
from localcloud.instance import CACHE_ROOT, STATE_ROOT, locked
from localcloud.machines.inherit import SUITES, apt_entries, apt_options
from localcloud.machines.shell import run

PACKAGES = (
    "systemd", "systemd-sysv", "dbus", "libpam-systemd", "openssh-server", "python3", "python3-apt", "python3-yaml", "sudo", "ca-certificates",
    "iproute2", "iputils-ping", "procps", "curl", "gnupg", "locales", "kmod", "udev", "nftables", "debian-archive-keyring", "e2fsprogs", "less",
)  # fmt: skip
LEFT_OUT = ("/usr/share/man/*", "/usr/share/doc/*", "/usr/share/locale/*", "/usr/share/info/*")
# Done in the finished root: no host keys and no machine id are shared, no unattended apt run at the first boot.
FINISH = """
set -e
rm -f "$1"/etc/ssh/ssh_host_*
: > "$1/etc/machine-id"
rm -f "$1/var/lib/dbus/machine-id" "$1/etc/apt/apt.conf.d/99mmdebstrap"
mkdir -p "$1/var/lib/systemd/timers"
for timer in apt-daily apt-daily-upgrade dpkg-db-backup fstrim e2scrub_all; do touch "$1/var/lib/systemd/timers/stamp-$timer.timer"; done
ln -sf /dev/null "$1/etc/systemd/system/e2scrub_reap.service"
ln -sf /dev/null "$1/etc/systemd/system/systemd-networkd-wait-online.service"
echo 'LANG=C.UTF-8' > "$1/etc/default/locale"
"""


def key(image: str) -> str:
    """Name of the image's directory: it changes when anything that goes into the image changes."""
    words = ["lists at 0", SUITES[image], *PACKAGES, *LEFT_OUT, FINISH]
    return f"{image}-{hashlib.sha256(chr(10).join(words).encode()).hexdigest()[:12]}"


def path_of(image: str) -> Path:
    return CACHE_ROOT / key(image)


def ensure(image: str) -> Path:
    """The image's root directory, built if it is not cached. A build that was killed leaves nothing that looks finished."""
    if image not in SUITES:
        raise BackendError(f"image {image!r} cannot boot here: expected one of {', '.join(SUITES)}")
    target = path_of(image)
    if target.exists():
        return target
    with locked(CACHE_ROOT / f".{image}.lock", 1200, "another build of this image takes too long"):
        if target.exists():
            return target
        for leftover in CACHE_ROOT.glob(f".building-{image}-*"):
            shutil.rmtree(leftover)
        building = CACHE_ROOT / f".building-{image}-{os.getpid()}"
        began = time.monotonic()
        sys.stderr.write(f"building image {image} (about a minute, once) ...\n")
        build(SUITES[image], building)
        building.rename(target)
        for old in CACHE_ROOT.glob(f"{image}-*"):
            if old != target and not in_use(old):
                shutil.rmtree(old)
        sys.stderr.write(f"image {image} ready after {time.monotonic() - began:.0f} s in {target}\n")
    return target


def build(suite: str, target: Path) -> None:
    """Bootstrap into ``target`` with mmdebstrap, in namespaces of its own: when this process is killed, nothing of the build goes on or stays mounted."""
    options = [f"--include={','.join(PACKAGES)}", "--variant=important", "--format=directory", "--quiet"]
    options += [f"--aptopt={line}" for line in apt_options().splitlines()]
    options += [f"--dpkgopt=path-exclude={pattern}" for pattern in LEFT_OUT]
    options += ["--dpkgopt=force-unsafe-io", f"--customize-hook={FINISH}"]
    alone = ["setpriv", "--pdeathsig", "KILL", "unshare", "-m", "-p", "--mount-proc", "--fork", "--kill-child=SIGKILL"]
    command = [*alone, "mmdebstrap", *options, suite, str(target)]
    try:
        run([*command, "-"], stdin="".join(line + "\n" for line in apt_entries(suite)), seconds=1500)
        os.utime(target / "var/lib/apt/lists", (0, 0))  # mmdebstrap empties it last: an apt cache that is empty must not count as fresh
    except BackendError:
        shutil.rmtree(target, ignore_errors=True)
        raise


def in_use(directory: Path) -> bool:
    """Whether a machine of any instance still has this directory under its disk."""
    return any(str(directory) in path.read_text() for path in STATE_ROOT.glob("*/m/*/machine.json"))


def purge() -> None:
    """Remove every cached image."""
    if CACHE_ROOT.exists():
        shutil.rmtree(CACHE_ROOT)
