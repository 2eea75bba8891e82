"""What machines take over from this host so that apt, pip and npm work inside as they do outside.

Nothing about any mirror is written here: all of it is read from the host's own settings.
"""

from __future__ import annotations

import contextlib
import functools
import ipaddress
import os
import re
import shutil
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from localcloud.backend import BackendError
from localcloud.instance import WHOLE_RANGE
from localcloud.machines.firewall import NEVER_OUTSIDE
from localcloud.machines.shell import attempt, run

SUITES = {"debian-12": "bookworm", "debian-13": "trixie"}
GUEST = Path(__file__).parent / "guest"
BUNDLE = Path("/etc/ssl/certs/ca-certificates.crt")
LOCAL_CERTIFICATES = Path("/usr/local/share/ca-certificates")
FETCHING = re.compile(r"^Acquire::(https?|ftp|Check-Valid-Until|Check-Date|Retries|ForceIPv[46]|AllowInsecureRepositories|Languages)\b")
# Environment that steers pip, npm, TLS libraries and proxies.
STEERING = re.compile(
    r"^(PIP_\w+|NPM_CONFIG_\w+|npm_config_\w+|SSL_CERT_\w+|REQUESTS_CA_BUNDLE|CURL_CA_BUNDLE|GIT_SSL_CAINFO|NODE_EXTRA_CA_CERTS|(HTTPS?|NO|FTP|ALL)_PROXY)$",
    re.IGNORECASE,
)
SETTINGS_FILES = (Path("/etc/pip.conf"), Path("/etc/npmrc"), Path("/usr/etc/npmrc"))
UNCHECKED_SYSCTLS = {"kernel/random", "fs/binfmt_misc", "kernel/usermodehelper", "kernel/keys"}
# Settings that hardening knows and that this kernel may not have.
EXTRA_SYSCTLS = {
    "kernel/yama/ptrace_scope": "0",
    "kernel/kexec_load_disabled": "0",
    "kernel/unprivileged_userns_clone": "1",
    "kernel/unprivileged_bpf_disabled": "2",
    "kernel/modules_disabled": "0",
}


@dataclass(frozen=True)
class Source:
    """One apt source of the Debian archive: URI, suites, components, keyring file."""

    uri: str
    suites: tuple[str, ...]
    components: tuple[str, ...]
    signed_by: str


def host_suite() -> str:
    """The host's Debian release name, such as bookworm."""
    found = re.search(r"^VERSION_CODENAME=(\w+)", Path("/etc/os-release").read_text(), re.MULTILINE)
    return found.group(1) if found else ""


def parse_sources(text: str, deb822: bool) -> list[Source]:
    """The ``deb`` entries of one apt source file, in either format."""
    found: list[Source] = []
    if not deb822:
        for line in text.splitlines():
            match = re.match(r"\s*deb\s+(?:\[([^]]*)\]\s+)?(\S+)\s+(\S+)\s+(.+)$", line)
            if match:
                key = re.search(r"signed-by=(\S+)", match[1] or "")
                found.append(Source(match[2], (match[3],), tuple(match[4].split("#")[0].split()), key[1] if key else ""))
        return found
    for stanza in re.split(r"\n\s*\n", text):
        lines = [line for line in stanza.splitlines() if not line.startswith("#")]
        values: dict[str, str] = {}
        field = ""
        for line in lines:
            if line[:1].isspace():
                values[field] = values.get(field, "") + "\n" + line
            elif ":" in line:
                field, _unused, value = line.partition(":")
                field = field.strip().lower()
                values[field] = value.strip()
        if "deb" not in values.get("types", "").split() or values.get("enabled", "yes").lower() == "no":
            continue
        signed = values.get("signed-by", "")
        found += [
            Source(
                uri,
                tuple(values.get("suites", "").split()),
                tuple(values.get("components", "").split()),
                signed if signed.startswith("/") else "",
            )
            for uri in values.get("uris", "").split()
        ]
    return found


def translate(sources: list[Source], host: str, suite: str) -> list[str]:
    """One-line apt entries of the Debian archive for ``suite``; sources of other vendors are left out."""
    entries: list[str] = []
    for source in sources:
        for name in source.suites:
            if not host or not re.fullmatch(rf"{host}(-updates|-security|-backports)?", name):
                continue
            option = f"[signed-by={source.signed_by}] " if source.signed_by else ""
            entry = f"deb {option}{source.uri} {name.replace(host, suite, 1)} {' '.join(source.components)}"
            if entry not in entries:
                entries.append(entry)
    return entries


def apt_entries(suite: str) -> list[str]:
    """The host's Debian sources, written for ``suite``."""
    paths = [
        Path("/etc/apt/sources.list"),
        *sorted(Path("/etc/apt/sources.list.d").glob("*.list")),
        *sorted(Path("/etc/apt/sources.list.d").glob("*.sources")),
    ]
    sources = [source for path in paths if path.exists() for source in parse_sources(path.read_text(), path.suffix == ".sources")]
    entries = translate(sources, host_suite(), suite)
    if not entries:
        raise BackendError(
            f"found no source of Debian {host_suite() or '(unknown)'} in /etc/apt: expected a Debian host whose apt works; "
            "add the Debian archive to /etc/apt/sources.list.d and try again"
        )
    return entries


def apt_options() -> str:
    """The host's settings for fetching (proxies, retries, checks of dates), as an apt.conf file."""
    lines = [line for line in run(["apt-config", "dump"]).splitlines() if FETCHING.match(line) and not line.endswith('"";')]
    return "".join(line + "\n" for line in lines)


def environment() -> dict[str, str]:
    """Variables of this process that steer pip, npm and TLS; a value that names a local file counts only when machines have it too."""
    kept = {}
    for key, value in sorted(os.environ.items()):
        if (
            STEERING.match(key)
            and not (value.startswith("/") and not value.startswith("/etc/ssl/certs"))
            and "\n" not in value
            and '"' not in value
        ):
            kept[key] = value
    return kept


def nameservers() -> list[str]:
    """The host's resolvers that other machines can ask too (none on loopback)."""
    for path in (Path("/etc/resolv.conf"), Path("/run/systemd/resolve/resolv.conf")):
        if path.exists():
            found = re.findall(r"^nameserver\s+(\d+\.\d+\.\d+\.\d+)", path.read_text(), re.MULTILINE)
            usable = [address for address in found if not address.startswith("127.")]
            if usable:
                return usable
    return []


@functools.cache
def needed_private() -> tuple[str, ...]:
    """Private addresses that packages come from on this host (a mirror or proxy in its own network); usually none."""
    texts = [*(entry for suite in SUITES.values() for entry in apt_entries(suite)), apt_options(), *environment().values()]
    texts += [path.read_text() for path in SETTINGS_FILES if path.exists()]
    names = sorted({name for text in texts for name in re.findall(r"https?://(?:[^/@\s]*@)?([\w.-]+)", text)})
    found = set()
    for name in names:
        with contextlib.suppress(OSError):
            found |= {str(entry[4][0]) for entry in socket.getaddrinfo(name, None, socket.AF_INET)}
    private = [
        address
        for address in sorted(found)
        if any(ipaddress.ip_address(address) in ipaddress.ip_network(network) for network in NEVER_OUTSIDE)
    ]
    return tuple(address for address in private if ipaddress.ip_address(address) not in ipaddress.ip_network(WHOLE_RANGE))


def write_settings(target: Path, image: str, gateway: str) -> None:
    """Fill ``target`` (empty) with the layer that lies between an image and the disks made from it."""
    suite = SUITES[image]

    def put(path: str, text: str, mode: int = 0o644) -> None:
        file = target / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        file.chmod(mode)

    put("etc/apt/sources.list", "".join(line + "\n" for line in apt_entries(suite)))
    put("etc/apt/apt.conf.d/90localcloud", apt_options() + 'APT::Update::Error-Mode "any";\n')
    put("etc/resolv.conf", f"nameserver {gateway}\n")
    put("etc/sudoers.d/localcloud-environment", f'Defaults env_keep += "{" ".join(environment())}"\n' if environment() else "", 0o440)
    put("etc/environment", "".join(f'{key}="{value}"\n' for key, value in environment().items()))
    for path in SETTINGS_FILES:
        if path.exists():
            put(str(path).lstrip("/"), path.read_text())
    for path in [Path("/etc/apt/auth.conf"), *Path("/etc/apt/auth.conf.d").glob("*.conf")]:
        if path.exists():
            put(str(path).lstrip("/"), path.read_text(), 0o600)
    write_certificates(target, put)
    for name in ("localcloud-sysctl.sh", "firstboot.py", "firstboot-final.sh"):
        put(f"usr/lib/localcloud/{name}", (GUEST / name).read_text(), 0o755)
    put("usr/bin/cloud-init", (GUEST / "cloud-init.sh").read_text(), 0o755)
    for unit, wanted_by in (
        ("localcloud-sysctl", "sysinit"),
        ("localcloud-volumes", "local-fs"),
        ("cloud-init", "multi-user"),
        ("cloud-final", "multi-user"),
    ):
        put(f"etc/systemd/system/{unit}.service", (GUEST / f"{unit}.service").read_text())
        link = target / f"etc/systemd/system/{wanted_by}.target.wants/{unit}.service"
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(f"/etc/systemd/system/{unit}.service")
    copy_sysctls(target / "usr/lib/localcloud/sysctl")


def write_certificates(target: Path, put: Callable[[str, str], None]) -> None:
    """The host's certificate bundle, and its own authorities so that a later update-ca-certificates keeps them."""
    if BUNDLE.exists():
        put(str(BUNDLE).lstrip("/"), BUNDLE.read_text())
    for path in sorted(LOCAL_CERTIFICATES.rglob("*.crt")):
        put(f"usr/local/share/ca-certificates/{path.name}", path.read_text())
        folder = target / "etc/ssl/certs"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{path.stem}.pem").symlink_to(f"/usr/local/share/ca-certificates/{path.name}")
        hashed = attempt(["openssl", "x509", "-noout", "-hash", "-in", path])
        link = folder / f"{hashed.stdout.strip()}.0"
        if not hashed.returncode and not link.is_symlink():
            link.symlink_to(f"{path.stem}.pem")


def copy_sysctls(target: Path) -> None:
    """Values of the host-wide kernel settings, copied once here so that a boot only copies small files."""
    for tree in ("kernel", "vm", "fs", "dev"):
        for folder, folders, files in os.walk(f"/proc/sys/{tree}"):
            inside = Path(folder).relative_to("/proc/sys")
            folders[:] = [name for name in folders if str(inside / name) not in UNCHECKED_SYSCTLS]
            (target / inside).mkdir(parents=True, exist_ok=True)
            for name in files:
                try:
                    content = (Path(folder) / name).read_bytes()
                except OSError:
                    content = b""
                (target / inside / name).write_bytes(content)
    for path, value in EXTRA_SYSCTLS.items():
        if not (target / path).exists():
            (target / path).parent.mkdir(parents=True, exist_ok=True)
            (target / path).write_text(value + "\n")
    (target / "kernel/random").mkdir(exist_ok=True)


def replace_settings(target: Path, image: str, gateway: str) -> None:
    """Make the settings layer anew. Only while no machine of the instance runs."""
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    write_settings(target, image, gateway)
