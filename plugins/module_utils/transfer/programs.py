# Copyright: cutover.hetzner contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""PostgreSQL's client programs: found, checked against the servers, and run without a secret on their command line."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from .endpoint import Endpoint
from .errors import TransferError

DEBIAN = Path("/usr/lib/postgresql")


def find(bin_dir: str | None, *server_versions: int) -> Path:
    """Directory with pg_dump and pg_restore at least as new as these servers (150018 is 15.18), the oldest such one.

    Raises TransferError naming what is needed.
    """
    needed = max(version // 10000 for version in server_versions)
    if bin_dir:
        places = [Path(bin_dir)]
    else:
        numbered = [(int(path.parent.name), path) for path in DEBIAN.glob("*/bin") if path.parent.name.isdigit()]
        places = [path for _number, path in sorted(numbered)]
        places += [Path(part) for part in os.environ.get("PATH", "").split(os.pathsep) if part]
    usable = [place for place in places if (place / "pg_dump").exists() and (place / "pg_restore").exists()]
    remedy = f"Install postgresql-client-{needed} (role mover does), or name its directory in bin_dir."
    if not usable:
        raise TransferError(f"no pg_dump and pg_restore in {bin_dir or f'{DEBIAN}/*/bin or PATH'}", remedy)
    versions = [(major(place), place) for place in usable]
    fit = [(version, place) for version, place in versions if version >= needed]
    if not fit:
        version, place = max(versions)
        raise TransferError(f"pg_dump in {place} is of version {version}, the servers need {needed} or newer", remedy)
    # A newer pg_restore writes settings that an older server does not know.
    return min(fit, key=lambda one: one[0])[1]


def major(place: Path) -> int:
    """Major version of the programs in this directory."""
    text = subprocess.run([str(place / "pg_dump"), "--version"], capture_output=True, text=True, check=True, timeout=30).stdout
    found = re.search(r"(\d+)", text)
    if not found:
        raise TransferError(f"pg_dump in {place} does not tell its version: {text.strip()}", "Name another directory in bin_dir.")
    return int(found.group(1))


def run(
    program: Path,
    arguments: Sequence[str],
    endpoint: Endpoint | None = None,
    settings: Mapping[str, str] | None = None,
    timeout: float | None = None,
) -> str:
    """Run a program against an endpoint; returns what it printed. settings: server settings of its sessions.

    The address and the password go by environment. Raises TransferError with the first error line.
    """
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PG")}
    environment["LC_ALL"] = "C.UTF-8"
    if endpoint is not None:
        environment |= {"PGCONNECT_TIMEOUT": "15", **endpoint.env(), "PGAPPNAME": f"cutover {program.name}"}
        options = " ".join(f"-c {name}={value}" for name, value in (settings or {}).items())
        environment["PGOPTIONS"] = f"{environment.get('PGOPTIONS', '')} {options}".strip()
    try:
        done = subprocess.run(
            [str(program), *arguments],
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise TransferError(
            f"{program.name} did not end within {timeout:.0f} s", "Look for locks on the server, then run again."
        ) from error
    if done.returncode != 0:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        telling = next((line for line in lines if "error:" in line), lines[0] if lines else "no message")
        remedy = "Correct what the message names and run again; what is there already is left alone."
        if "out of shared memory" in done.stderr:
            remedy = "Raise max_locks_per_transaction on that server, restart it and run again."
        raise TransferError(f"{program.name} failed: {telling.strip()}", remedy, output=done.stderr[-4000:])
    return done.stdout
