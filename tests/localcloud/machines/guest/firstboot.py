"""What a machine does with its user data at first boot. Runs inside the machine: ``firstboot.py early|final``.

Knows of ``#cloud-config``: hostname, fqdn, users, ssh_authorized_keys, write_files, package_update, package_upgrade, packages, runcmd;
and of scripts (``#!``). Anything else is an error that `cloud-init status` reports, not something silently left out.
"""

from __future__ import annotations

import base64
import gzip
import os
import pwd
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

INSTANCE = Path("/var/lib/cloud/instance")
KNOWN = {
    "hostname", "fqdn", "users", "ssh_authorized_keys", "write_files", "package_update", "package_upgrade", "packages", "runcmd",
    "disable_root", "ssh_pwauth", "manage_etc_hosts", "preserve_hostname",
}  # fmt: skip


class Trouble:
    """Errors are collected, so that one bad entry does not keep the rest from being done."""

    def __init__(self) -> None:
        self.found: list[str] = []

    def guard(self, what: str, action: Any, *arguments: Any) -> None:
        try:
            action(*arguments)
        except (OSError, subprocess.CalledProcessError, KeyError, TypeError, ValueError) as error:
            self.found.append(f"{what}: {error}")

    def record(self) -> int:
        if self.found:
            with (INSTANCE / "errors").open("a") as file:
                file.write("".join(line + "\n" for line in self.found))
        return 1 if self.found else 0


def command(words: list[str] | str, **more: Any) -> None:
    subprocess.run(words, check=True, stdin=subprocess.DEVNULL, shell=isinstance(words, str), **more)


def as_list(value: Any) -> list[Any]:
    if value is None:
        return []
    return value if isinstance(value, list) else [value]


def authorize(user: str, keys: list[str]) -> None:
    account = pwd.getpwnam(user)
    folder = Path(account.pw_dir) / ".ssh"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = folder / "authorized_keys"
    have = path.read_text().splitlines() if path.exists() else []
    path.write_text("".join(line + "\n" for line in [*have, *(key.strip() for key in keys if key.strip() not in have)]))
    path.chmod(0o600)
    for item in (folder, path):
        os.chown(item, account.pw_uid, account.pw_gid)


def make_user(user: Any) -> None:
    if user == "default":
        return
    if isinstance(user, str):
        user = {"name": user}
    name = user["name"]
    groups = user.get("groups", [])
    groups = [part.strip() for part in groups.split(",")] if isinstance(groups, str) else groups
    for group in groups:
        command(["groupadd", "-f", group])
    try:
        pwd.getpwnam(name)
        command(["usermod", "-s", user.get("shell", "/bin/bash"), *(["-aG", ",".join(groups)] if groups else []), name])
    except KeyError:
        words = ["useradd", "-s", user.get("shell", "/bin/bash"), "-c", str(user.get("gecos", ""))]
        words += ["-M"] if user.get("no_create_home") else ["-m"]
        words += ["-d", user["homedir"]] if user.get("homedir") else []
        words += ["-u", str(user["uid"])] if user.get("uid") else []
        words += ["-r"] if user.get("system") else []
        words += ["-g", user["primary_group"]] if user.get("primary_group") else []
        command([*words, *(["-G", ",".join(groups)] if groups else []), name])
    if user.get("hashed_passwd") or user.get("passwd"):
        command(["usermod", "-p", user.get("hashed_passwd") or user["passwd"], name])
    if user.get("lock_passwd", True):
        command(["passwd", "-q", "-l", name])
    rules = as_list(user.get("sudo"))
    if rules and rules != [False]:
        path = Path("/etc/sudoers.d/90-cloud-init-users")
        with path.open("a") as file:
            file.write("".join(f"{name} {rule}\n" for rule in rules))
        path.chmod(0o440)
    keys = as_list(user.get("ssh_authorized_keys")) or as_list(user.get("ssh-authorized-keys"))
    if keys:
        authorize(name, keys)


def write_file(entry: dict[str, Any]) -> None:
    path = Path(entry["path"])
    encoding = str(entry.get("encoding", "text/plain")).lower()
    content = entry.get("content", "")
    data = content if isinstance(content, bytes) else str(content).encode()
    if "b64" in encoding or "base64" in encoding:
        data = base64.b64decode(data)
    if encoding.startswith(("gz", "gzip")):
        data = gzip.decompress(data)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab" if entry.get("append") else "wb") as file:
        file.write(data)
    path.chmod(int(str(entry.get("permissions", "0644")), 8))
    owner, _unused, group = str(entry.get("owner", "root:root")).partition(":")
    shutil.chown(path, owner, group or None)


def name_host(settings: dict[str, Any]) -> None:
    name = str(settings.get("hostname") or settings["fqdn"]).partition(".")[0]
    fqdn = str(settings.get("fqdn", name))
    Path("/etc/hostname").write_text(name + "\n")
    command(["hostname", name])
    hosts = Path("/etc/hosts")
    kept = [line for line in hosts.read_text().splitlines() if not line.startswith("127.0.1.1")]
    hosts.write_text("\n".join([*kept, f"127.0.1.1 {fqdn} {name}" if fqdn != name else f"127.0.1.1 {name}"]) + "\n")


def early(settings: dict[str, Any], trouble: Trouble) -> None:
    for key in sorted(set(settings) - KNOWN):
        trouble.found.append(f"user data: key {key!r} is not supported by the local cloud")
    if settings.get("hostname") or settings.get("fqdn"):
        trouble.guard("hostname", name_host, settings)
    late = [entry for entry in as_list(settings.get("write_files")) if entry.get("defer")]
    for entry in as_list(settings.get("write_files")):
        if entry not in late:
            trouble.guard(f"write_files {entry.get('path')}", write_file, entry)
    for user in as_list(settings.get("users")):
        trouble.guard(f"users {user}", make_user, user)
    if settings.get("ssh_authorized_keys"):
        trouble.guard("ssh_authorized_keys", authorize, "root", as_list(settings["ssh_authorized_keys"]))


def final(settings: dict[str, Any], trouble: Trouble) -> None:
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "HOME": "/root"}
    packages = ["=".join(map(str, entry)) if isinstance(entry, list) else str(entry) for entry in as_list(settings.get("packages"))]
    if packages or settings.get("package_update") or settings.get("package_upgrade"):
        trouble.guard("apt-get update", lambda: command(["apt-get", "-q", "update"], env=environment))
    if settings.get("package_upgrade"):
        trouble.guard("apt-get upgrade", lambda: command(["apt-get", "-qy", "dist-upgrade"], env=environment))
    if packages:
        trouble.guard(
            "packages",
            lambda: command(["apt-get", "-qy", "--option=Dpkg::Options::=--force-confold", "install", *packages], env=environment),
        )
    for entry in as_list(settings.get("write_files")):
        if entry.get("defer"):
            trouble.guard(f"write_files {entry.get('path')}", write_file, entry)
    for line in as_list(settings.get("runcmd")):
        words = [str(word) for word in line] if isinstance(line, list) else str(line)
        trouble.guard(f"runcmd {words!r}", lambda words=words: command(words, env=environment))


def run_script(text: str) -> None:
    path = INSTANCE / "scripts" / "part-001"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o700)
    command([str(path)], env={**os.environ, "HOME": "/root"})


def main(stage: str) -> int:
    text = (INSTANCE / "user-data.txt").read_text()
    trouble = Trouble()
    if text.startswith("#!"):
        if stage == "final":
            trouble.guard("script", run_script, text)
        return trouble.record()
    if not text.startswith("#cloud-config"):
        if stage == "early":
            trouble.found.append("user data begins with neither #cloud-config nor #!: nothing was done with it")
        return trouble.record()
    import yaml

    try:
        settings = yaml.safe_load(text) or {}
        if not isinstance(settings, dict):
            raise ValueError(f"expected a mapping, found {type(settings).__name__}")
    except (yaml.YAMLError, ValueError) as error:
        if stage == "early":
            trouble.found.append(f"user data is not a valid #cloud-config: {error}")
        return trouble.record()
    (early if stage == "early" else final)(settings, trouble)
    return trouble.record()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
