# Copyright: cutover.hetzner contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Preflight of room on disk: what the move needs on the target, and what is free where that can be known."""

from __future__ import annotations

import ipaddress
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .catalog import Table
from .errors import certain
from .findings import INFO, Finding, finding

if TYPE_CHECKING:
    import psycopg

    Conn = psycopg.Connection[Any]

ROW_FACTOR = 1.1  # a copy has no free space in its pages but gets statistics, maps and the ledger
INDEX_FACTOR = 1.5  # a sort's temporary files lie beside the index that they become
_INDEXES = "SELECT coalesce(sum(pg_indexes_size(c.oid)), 0)::bigint FROM pg_class c WHERE c.oid = ANY(%s::oid[]) AND c.relkind = 'r'"
_OBJECTS = "SELECT (SELECT count(*) FROM pg_largeobject_metadata) > 0, pg_relation_size('pg_catalog.pg_largeobject')"
_WAL = "SELECT setting::bigint * 1024 * 1024 FROM pg_settings WHERE name = 'max_wal_size'"
_PLACE = """
SELECT current_setting('data_directory'), extract(epoch FROM pg_postmaster_start_time())::bigint
WHERE (SELECT rolsuper OR pg_has_role('pg_read_all_settings', 'USAGE') FROM pg_roles WHERE rolname = current_user)
"""


def disk(src: Conn, dst: Conn, tables: Sequence[Table], free: int | None) -> list[Finding]:
    """The finding about room on the target. free: bytes, where the caller knows; measured when the target runs on this machine."""
    leaves = [table for table in tables if table.kind == "r"]
    rows = sum(table.size_bytes for table in leaves)
    indexes = certain(src.execute(_INDEXES, ([table.oid for table in leaves],)).fetchone(), "the size of the indexes")[0]
    objects, object_bytes = certain(src.execute(_OBJECTS).fetchone(), "the size of large objects")
    wal = certain(dst.execute(_WAL).fetchone(), "max_wal_size")[0]
    need = needed(rows + (object_bytes if objects else 0), int(indexes), wal)
    return [judge(need, free if free is not None else measured(dst), present=_present(dst))]


def needed(rows: int, indexes: int, wal: int) -> int:
    """Bytes that a move needs on the target: rows, indexes with the sorts that build them, and WAL between two checkpoints. Pure.

    wal: max_wal_size; what is written at all is the other limit
    """
    written = int(rows * ROW_FACTOR + indexes)
    return int(rows * ROW_FACTOR + indexes * INDEX_FACTOR + min(wal, written))


def judge(need: int, free: int | None, present: bool = False) -> Finding:
    """The finding. present: a part has been copied already, so that the need is an upper bound. Pure."""
    text = f"about {max(1, need // 1024**2)} MiB are needed on the target for rows, indexes and WAL"
    if free is None:
        fix = "Compare with df on the target's servers, or give target_free_bytes."
        return finding("disk", "disk", f"free space of the target cannot be seen through SQL; {text}", fix, INFO)
    text = f"{text}, {free // 1024**2} MiB are free"
    if free < need and not present:
        return finding("disk", "disk", text, f"Enlarge the target's volume by {(need - free) // 1024**2 + 1} MiB or more, on each member.")
    return finding("disk", "disk", text, "Nothing to do.", INFO)


def measured(conn: Conn) -> int | None:
    """Free bytes beside the target's data directory, when its server runs on this machine; None when that is not certain."""
    address = conn.info.hostaddr
    if address and not ipaddress.ip_address(address.partition("%")[0]).is_loopback:
        return None
    row = conn.execute(_PLACE).fetchone()
    if row is None:
        return None
    try:
        # The same path may exist here and belong to another server, when the address is a tunnel's end: its pid file tells.
        lines = (Path(row[0]) / "postmaster.pid").read_text(encoding="utf-8").splitlines()
        return shutil.disk_usage(row[0]).free if abs(int(lines[2]) - row[1]) <= 1 else None
    except (OSError, IndexError, ValueError):
        return None


def _present(conn: Conn) -> bool:
    row = conn.execute("SELECT to_regclass('cutover.run') IS NOT NULL").fetchone()
    return bool(row and row[0])
