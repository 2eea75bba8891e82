"""Compares sshd and the firewall with what is wanted and changes them so that nobody is locked out.

Argument: ``plan`` only compares; ``apply`` arms a timer that puts the old state back, then changes; ``disarm`` stops the timer;
``revert`` puts the old state back at once.
Standard input for plan and apply: the role's variable ``__base_hardening_wanted`` as JSON.
Standard output: {"changes": [words]}.
"""

from __future__ import annotations

import difflib
import ipaddress
import json
import re
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

LIVE = Path("/etc/ssh/sshd_config.d/00-base-hardening.conf")
RSA = Path("/etc/ssh/ssh_host_rsa4096_key")
MODULI = Path("/etc/ssh/moduli")
BEFORE = Path("/var/lib/base-hardening/before")
UNIT = "base-hardening-revert"
TIMER, SERVICE = (Path(f"/etc/systemd/system/{UNIT}.{kind}") for kind in ("timer", "service"))
KEPT = [LIVE, *(Path(f"/etc/ufw/{name}") for name in ("user.rules", "user6.rules", "ufw.conf")), Path("/etc/default/ufw")]
POLICIES = {
    "DEFAULT_INPUT_POLICY": ("DROP", "deny", "incoming"),
    "DEFAULT_OUTPUT_POLICY": ("ACCEPT", "allow", "outgoing"),
    "DEFAULT_FORWARD_POLICY": ("DROP", "deny", "routed"),
}
RULE = re.compile(r"^ufw (?P<rule>.*?)(?: comment '(?P<comment>.*)')?$")


def run(*command: str, check: bool = True, text: str | None = None) -> str:
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False, timeout=60)
    if check and done.returncode != 0:
        raise SystemExit(f"{shlex.join(command)}: {(done.stderr or done.stdout).strip()}")
    return done.stdout


# --- what the firewall shall hold (pure) ---


def network(source: str) -> str:
    """As ufw writes it: host bits cleared, a single host without its prefix."""
    found = ipaddress.ip_network(source, strict=False)
    return str(found.network_address) if found.prefixlen == found.max_prefixlen else str(found)


def lines(action: str, port: str, proto: str, sources: list[str], comment: str) -> list[tuple[str, str]]:
    """(rule, comment) for each source; no source means from anywhere, over IPv4 and IPv6."""
    named = proto in ("tcp", "udp")
    if not sources:
        return [(f"{action} {port}/{proto}" if named else f"{action} {port}", comment)]
    end = f" proto {proto}" if named else ""
    return [(f"{action} from {network(source)} to any port {port}{end}", comment) for source in sources]


def wanted_rules(wanted: dict[str, Any]) -> dict[str, str]:
    """Rule to comment, SSH first; those of trusted sources before the limited one."""
    port = str(wanted["port"])
    found = lines("allow", port, "tcp", wanted["ssh_trusted"], "SSH trusted") if wanted["ssh_trusted"] else []
    found += lines("limit", port, "tcp", wanted["ssh_sources"], "SSH")
    found += [(f"allow from {network(source)}", "private network") for source in wanted["networks"]]
    for rule in wanted["rules"]:
        found += lines("allow", str(rule["port"]), rule.get("proto", "tcp"), rule.get("sources", []), rule["comment"])
    first: dict[str, str] = {}
    for rule, comment in found:
        first.setdefault(rule, comment.replace("'", ""))
    return first


def added_rules(shown: str) -> dict[str, str]:
    """Rule to comment from ``ufw show added``."""
    found = (RULE.match(line) for line in shown.splitlines() if line.startswith("ufw "))
    return {match["rule"]: match["comment"] or "" for match in found if match}


def rule_changes(current: dict[str, str], wanted: dict[str, str]) -> tuple[list[tuple[str, str]], list[str]]:
    """(to add, to remove); a rule whose comment alone differs is added again."""
    return [(r, c) for r, c in wanted.items() if current.get(r) != c], [r for r in current if r not in wanted]


def settings(text: str) -> dict[str, str]:
    """NAME=value lines of a shell file, quotes removed."""
    return {
        k.strip(): v.strip().strip('"')
        for k, _unused, v in (line.partition("=") for line in text.splitlines() if not line.startswith("#"))
        if v
    }


# --- what there is ---


def read(path: Path) -> str:
    return path.read_text() if path.exists() else ""


def moduli_without_small(text: str) -> str:
    return "".join(
        line for line in text.splitlines(True) if line.startswith("#") or (len(line.split()) == 7 and int(line.split()[4]) >= 3071)
    )


class Machine:
    """The state as found, and the steps that lead from it to what is wanted."""

    def __init__(self, wanted: dict[str, Any]) -> None:
        self.wanted = wanted
        self.ufw = shutil.which("ufw") is not None
        self.ssh_changes = self._ssh() if wanted["ssh"] else []
        self.add: list[tuple[str, str]] = []
        self.remove: list[str] = []
        self.firewall_changes = self._firewall() if wanted["firewall"] else []

    def _ssh(self) -> list[str]:
        live, staged = read(LIVE), read(Path(self.wanted["staged"]))
        found = []
        if live != staged:
            different = [
                d for d in difflib.unified_diff(live.splitlines(), staged.splitlines(), lineterm="", n=0) if d[:2] not in ("--", "++", "@@")
            ]
            found.append("sshd: " + "; ".join(d for d in different if d[1:2] != "#"))
        if not RSA.exists():
            found.append(f"sshd: host key {RSA}")
        if moduli_without_small(read(MODULI)) != read(MODULI):
            found.append(f"sshd: moduli below 3072 bits leave {MODULI}")
        return found

    def _firewall(self) -> list[str]:
        self.active = self.ufw and "Status: active" in run("ufw", "status")
        current = added_rules(run("ufw", "show", "added")) if self.ufw else {}
        self.add, self.remove = rule_changes(current, wanted_rules(self.wanted))
        defaults = settings(read(Path("/etc/default/ufw")))
        found = [f"firewall: + {rule}" for rule, _unused in self.add]
        self.policies = [p for name, p in POLICIES.items() if defaults.get(name) != p[0]]
        found += [f"firewall: default {word} {way}" for _unused, word, way in self.policies]
        self.ipv6 = "yes" if self.wanted["ipv6"] else "no"
        self.ipv6_differs = defaults.get("IPV6") != self.ipv6
        found += [f"firewall: IPv6 {self.ipv6}"] if self.ipv6_differs else []
        found += [f"firewall: - {rule}" for rule in self.remove]
        return found + ([] if self.active else ["firewall: enabled"])

    def apply(self) -> None:
        """Allow before deny: rules first, SSH's before all, then policies, then removal, then the switch."""
        if self.wanted["firewall"] and self.firewall_changes:
            if self.ipv6_differs:
                file = Path("/etc/default/ufw")
                file.write_text(re.sub(r"(?m)^IPV6=.*$", f"IPV6={self.ipv6}", file.read_text()))
            for rule, comment in self.add:
                # Before the limited rule, which would count them too.
                first = ["prepend"] if comment == "SSH trusted" else []
                run("ufw", *first, *rule.split(), "comment", comment)
            for _unused, word, way in self.policies:
                run("ufw", "default", word, way)
            for rule in self.remove:
                run("ufw", "--force", "delete", *rule.split())
            run("ufw", "--force", "enable")
        if self.wanted["ssh"] and self.ssh_changes:
            self._apply_ssh()

    def _apply_ssh(self) -> None:
        if not RSA.exists():
            run("ssh-keygen", "-q", "-t", "rsa", "-b", "4096", "-N", "", "-f", str(RSA))
        MODULI.write_text(moduli_without_small(read(MODULI)))
        LIVE.parent.mkdir(mode=0o755, exist_ok=True)
        LIVE.write_text(read(Path(self.wanted["staged"])))
        LIVE.chmod(0o600)
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
        run("sshd", "-t")
        ports = [line.split()[1] for line in run("sshd", "-T").splitlines() if line.startswith("port ")]
        if ports != [str(self.wanted["port"])]:
            raise SystemExit(
                f"sshd would listen on ports {', '.join(ports)}, wanted is {self.wanted['port']} alone. "
                "Another file sets Port too, or /etc/ssh/sshd_config does not include sshd_config.d: grep -rin '^ *\\(port\\|include\\)' /etc/ssh"
            )
        restart_ssh()
        wait_listening(self.wanted["port"])


def wait_listening(port: int, seconds: float = 10.0) -> None:
    """A reloaded sshd is away for a moment; a proof in that moment would be wrong."""
    deadline = time.monotonic() + seconds
    while f":{port} " not in run("ss", "-Hltn"):
        if time.monotonic() > deadline:
            raise SystemExit(f"sshd does not listen on port {port} after {seconds:g} s: systemctl status ssh")
        time.sleep(0.1)


def restart_ssh() -> None:
    """Where systemd holds the socket (Ubuntu since 22.10), the port is the socket's."""
    if run("systemctl", "is-active", "ssh.socket", check=False).strip() == "active":
        run("systemctl", "daemon-reload")
        run("systemctl", "restart", "ssh.socket")
    run("systemctl", "try-reload-or-restart", "ssh.service")


def arm(seconds: int) -> None:
    """Keep what there is, and let systemd bring it back unless somebody disarms; a reboot only starts the seconds anew.

    What an unfinished run kept is the last state that was proven: it is not overwritten.
    """
    if not (TIMER.exists() and BEFORE.exists()):
        keep()
    program = BEFORE.parent / "guard.py"
    program.write_text(Path("/proc/self/cmdline").read_bytes().split(b"\0")[2].decode())
    SERVICE.write_text(
        f"[Unit]\nDescription=Bring the earlier SSH and firewall back\n[Service]\nType=oneshot\nExecStart=/usr/bin/python3 {program} revert\n"
    )
    # systemd's timers may be a minute late by default, at an offset that every boot draws anew.
    TIMER.write_text(f"[Timer]\nOnActiveSec={seconds}\nAccuracySec=1s\n[Install]\nWantedBy=timers.target\n")
    run("systemctl", "daemon-reload")
    run("systemctl", "enable", TIMER.name)
    run("systemctl", "restart", TIMER.name)


def keep() -> None:
    shutil.rmtree(BEFORE, ignore_errors=True)
    BEFORE.mkdir(parents=True, mode=0o700)
    for path in KEPT:
        if path.exists():
            shutil.copy2(path, BEFORE / path.name if path.parent != Path("/etc/default") else BEFORE / "default-ufw")
    active = shutil.which("ufw") is not None and "Status: active" in run("ufw", "status")
    (BEFORE / "firewall").write_text("active" if active else "inactive")


def disarm() -> None:
    run("systemctl", "disable", "--now", TIMER.name, check=False)
    for unit in (TIMER, SERVICE):
        unit.unlink(missing_ok=True)
    run("systemctl", "daemon-reload")


def revert() -> None:
    """Files as they were, the firewall as it was, sshd with them."""
    if not BEFORE.exists():
        raise SystemExit(f"{BEFORE} is missing: nothing to go back to")
    for path in KEPT:
        kept = BEFORE / path.name if path.parent != Path("/etc/default") else BEFORE / "default-ufw"
        if kept.exists():
            shutil.copy2(kept, path)
        elif path == LIVE:
            path.unlink(missing_ok=True)
    if shutil.which("ufw"):
        was_active = (BEFORE / "firewall").read_text() == "active"
        run("ufw", "--force", "enable" if was_active else "disable", check=False)
        if was_active:
            run("ufw", "reload", check=False)
    restart_ssh()


def main() -> None:
    mode = sys.argv[1]
    changes: list[str] = []
    if mode in ("plan", "apply"):
        machine = Machine(json.load(sys.stdin))
        changes = machine.ssh_changes + machine.firewall_changes
        if mode == "apply" and changes:
            arm(machine.wanted["revert_seconds"])
            try:
                machine.apply()
            except BaseException:
                revert()
                disarm()
                raise
    else:
        if mode == "revert":
            revert()
        disarm()
    sys.stdout.write(json.dumps({"changes": changes}) + "\n")


if __name__ == "__main__":
    main()
