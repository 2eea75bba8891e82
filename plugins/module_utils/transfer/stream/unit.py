# Copyright: cutover.hetzner contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The service of a stream as systemd knows it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ..errors import TransferError

# Exit status, output and errors of a command.
Run = Callable[[list[str]], tuple[int, str, str]]
NOT_INSTALLED = "Run role cutover.hetzner.change_stream on this machine."


@dataclass(frozen=True)
class Unit:
    """loaded: systemd knows it; active: running, or about to; enabled: starts at boot; state: active, activating, failed, inactive, ...

    restarts: how often systemd had to start it again; outdated: its file has changed since systemd has read it
    """

    name: str
    loaded: bool = False
    active: bool = False
    enabled: bool = False
    state: str = "unknown"
    restarts: int = 0
    outdated: bool = False

    def plain(self) -> str:
        """For a diff."""
        return f"{self.name}: {'started' if self.active else 'stopped'}, {'starts' if self.enabled else 'does not start'} at boot"


def look(run: Run, name: str) -> Unit:
    """State of a unit; one that systemd does not know is not loaded. Raises TransferError of kind no_systemd."""
    code, out, err = run(["systemctl", "show", name, "--property=LoadState,ActiveState,UnitFileState,NRestarts,NeedDaemonReload"])
    if code:
        raise TransferError(
            f"systemctl does not answer on this machine: {err.strip() or out.strip()}",
            "Run the stream on a machine with systemd.",
            kind="no_systemd",
        )
    found = dict(line.split("=", 1) for line in out.splitlines() if "=" in line)
    state = found.get("ActiveState", "unknown")
    return Unit(
        name,
        found.get("LoadState") == "loaded",
        state in ("active", "activating", "reloading", "deactivating"),
        found.get("UnitFileState") == "enabled",
        state,
        int(found.get("NRestarts") or 0),
        found.get("NeedDaemonReload") == "yes",
    )


def need(found: Unit) -> None:
    """Raise TransferError of kind not_installed for a unit that systemd does not know."""
    if not found.loaded:
        raise TransferError(f"systemd of this machine knows no unit {found.name}", NOT_INSTALLED, kind="not_installed")


def bring_up(run: Run, found: Unit, restart: bool) -> bool:
    """Start a unit now and at boot; whether anything was done. restart: also when it runs already."""
    done = False
    if found.outdated:
        _do(run, "daemon-reload")
    if not found.enabled:
        _do(run, "enable", found.name)
        done = True
    if found.state == "failed":
        _do(run, "reset-failed", found.name)
    if restart or not found.active:
        _do(run, "restart", found.name)
        done = True
    return done


def bring_down(run: Run, found: Unit, disable: bool) -> bool:
    """Stop a unit, also at boot with ``disable``; whether anything was done."""
    done = False
    if found.active:
        _do(run, "stop", found.name)
        done = True
    if disable and found.enabled:
        _do(run, "disable", found.name)
        done = True
    if found.loaded and found.state == "failed":
        _do(run, "reset-failed", found.name)
        done = True
    return done


def _do(run: Run, verb: str, *names: str) -> None:
    code, out, err = run(["systemctl", "--quiet", verb, *names])
    if code:
        words = " ".join((verb, *names))
        raise TransferError(
            f"systemctl {words} failed: {err.strip() or out.strip() or code}",
            f"See journalctl {' '.join(f'--unit {name}' for name in names)} --lines 50 for the reason.",
            kind="unit",
            unit=names[0] if names else "",
        )
