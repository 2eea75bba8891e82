# Copyright: cutover.hetzner contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The file that tells a stream's processes what to do, written for the service's user alone, and shown without its secrets."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..endpoint import Endpoint
from . import files
from .config import Config

MASK = "********"


def paths(direction: str, home: Path, config_dir: Path) -> tuple[Path, Path]:
    """(folder of the spool, file of the configuration) of a direction."""
    return home / direction, config_dir / f"stream-{direction}.json"


def arguments(config: Config) -> dict[str, Any]:
    """A configuration as :meth:`Config.from_args` takes it, without what is as by default."""
    found: dict[str, Any] = {
        "direction": config.direction,
        "source": _endpoint(config.source),
        "target": _endpoint(config.target),
        "slot": config.slot,
        "publication": config.publication,
        "spool": str(config.spool),
        "include": list(config.include),
        "exclude": list(config.exclude),
        "rename": {name: dict(getattr(config.rename, name)) for name in ("schemas", "tables", "columns")},
        "flavour": config.flavour,
        "metrics_port": config.metrics_port,
    }
    return {name: value for name, value in found.items() if value is not None}


def masked(given: Mapping[str, Any]) -> dict[str, Any]:
    """The same without secrets, to be shown."""
    shown = dict(given)
    for side in ("source", "target"):
        if isinstance(shown.get(side), Mapping):
            shown[side] = {name: MASK if name in ("dsn", "password") else value for name, value in shown[side].items()}
    return shown


def write(path: Path, config: Config, owner: tuple[int, int] | None, check: bool) -> tuple[bool, list[str], list[str]]:
    """Write the file when it says anything else, or others may read it: whether it was, or would be, and what is shown of it before and after.

    owner: user and group of the service, None where there are none yet, in a check
    """
    text = json.dumps(arguments(config), indent=1, ensure_ascii=False, sort_keys=True) + "\n"
    try:
        old = path.read_text(encoding="utf-8")
        there = path.stat()
        right = old == text and owner == (there.st_uid, there.st_gid) and not there.st_mode & 0o077
    except FileNotFoundError:
        old, right = "", False
    before = _shown(old)
    after = _shown(text)
    if not right and before == after:
        before.append("a password, owner or mode: as before")
        after.append("a password, owner or mode: changed")
    if not right and not check and owner is not None:
        # Complete, and its owner's, before it has its name.
        draft = path.with_name(f".{path.name}.new")
        files.replace(draft, text, durable=True)
        os.chown(draft, *owner)
        draft.replace(path)
        files.sync_folder(path.parent)
    return not right, before, after


def _shown(text: str) -> list[str]:
    if not text:
        return ["configuration: none"]
    try:
        given = json.loads(text)
    except ValueError:
        return ["configuration: no JSON"]
    return json.dumps(masked(given) if isinstance(given, dict) else given, indent=1, ensure_ascii=False, sort_keys=True).splitlines()


def _endpoint(endpoint: Endpoint) -> dict[str, Any]:
    given = {name: getattr(endpoint, name) for name in ("dsn", "host", "dbname", "user", "password", "sslmode", "sslrootcert", "flavour")}
    if endpoint.host is not None:
        given["port"] = endpoint.port
    return {name: value for name, value in given.items() if value is not None}
