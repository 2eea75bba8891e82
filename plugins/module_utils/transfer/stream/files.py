# Copyright: cutover.hetzner contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Small files that one process replaces and others read: states, figures, what belongs to a folder."""

from __future__ import annotations

import errno
import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import TransferError

# The disk, a quota, or the largest file allowed.
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_ATTEMPTS = 50


def replace(path: Path, text: str, *, durable: bool = False, mode: int = 0o600) -> None:
    """Replace a file in one move; durable: it outlives a crash of the machine from then on. Raises OSError."""
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            os.fchmod(descriptor, mode)
            file.write(text)
            file.flush()
            if durable:
                os.fsync(descriptor)
        part.replace(path)
    except OSError:
        part.unlink(missing_ok=True)
        raise
    if durable:
        sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Bring names of files to disk."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def show(path: Path, facts: Mapping[str, Any], mode: int = 0o600) -> None:
    """Replace a file of JSON. On a full disk it is written over in place, where its blocks are, since what it says matters most then.

    Whether it could be written is not told: a state that nobody can read is no reason to stop.
    """
    text = json.dumps(facts, ensure_ascii=False) + "\n"
    try:
        replace(path, text, mode=mode)
    except OSError as error:
        if error.errno in FULL:
            _overwrite(path, text)


def _overwrite(path: Path, text: str) -> None:
    try:
        with path.open("r+b") as file:
            file.write(text.encode())
            file.truncate()
    except OSError:
        return


def load(path: Path) -> dict[str, Any] | None:
    """Content of a file of JSON, None when there is none or it makes no sense. One that is being written over is read again."""
    for _unused in range(_ATTEMPTS):
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except ValueError:
            time.sleep(0.002)
            continue
        return found if isinstance(found, dict) else None
    return None


def explained(error: OSError, what: str, folder: Path) -> TransferError:
    """TransferError of kind disk_full or disk for a failed write. what: what was being done, as a noun."""
    if error.errno in FULL:
        return TransferError(
            f"{what} found no room: the disk below {folder} is full ({error.strerror})",
            "Make room there; the stream goes on by itself, and until then the sending server keeps its log.",
            kind="disk_full",
            folder=str(folder),
        )
    return TransferError(
        f"{what} failed in {folder}: {error.strerror}",
        "Look at the disk and its file system (dmesg, df); what was confirmed to the sending server is safe, the rest is fetched again.",
        kind="disk",
        folder=str(folder),
    )
