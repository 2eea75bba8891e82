# Copyright: cutover.hetzner contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What a stream needs of the servers and of this machine, asked before anything is made."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import pooler, preflight_source, slots
from ..endpoint import Endpoint
from ..errors import TransferError, certain
from ..findings import ERROR, WARNING

if TYPE_CHECKING:
    import psycopg

# Findings of the preflight without which no change can be read, by rule, and the word that a machine gets.
_NEEDED = {"standby": "standby", "wal-level": "wal_level", "replication-right": "no_replication_right", "output-plugin": "output_plugin"}
_WORTH_TELLING = ("slot-keep-size", "sender-timeout", "long-transaction", "idle-in-transaction", "prepared-transaction")
INSTEAD = (
    "copy without a slot and verify while the source is frozen: the write stop then lasts as long as what changed takes to be brought over"
)
_FILES = ("sslrootcert", "sslcert", "sslkey", "sslcrl", "passfile")
# The service sees neither homes nor the temporary folders of others.
_HIDDEN = ("/home", "/root", "/run/user", "/tmp", "/var/tmp")


def refuse_rest(endpoint: Endpoint) -> None:
    """Raise TransferError of kind rest for a source that offers nothing but a REST address."""
    if endpoint.rest is not None:
        raise TransferError(f"{endpoint.describe()} offers no log to read changes from", f"Without a stream: {INSTEAD}.", kind="rest")


def sending(conn: psycopg.Connection[Any], endpoint: Endpoint, slot: str) -> list[str]:
    """Refuse a sending database that cannot be streamed from; what is worth knowing about one that can, a sentence each.

    conn: a read-only session there; slot: may exist already
    Raises TransferError of kind pooler, standby, wal_level, no_replication_right, output_plugin, no_free_slot, no_wal_sender or slot_lost.
    """
    where = endpoint.describe()
    if not pooler.direct(conn):
        raise TransferError(
            f"{where} is a pooler, through which nothing is replicated",
            f"Give the server's direct address. Without a stream: {INSTEAD}.",
            kind="pooler",
        )
    found = preflight_source.look(conn, 0)
    for one in found:
        if one.rule in _NEEDED:
            raise TransferError(
                f"{one.object} of {where} {one.problem}",
                f"{one.fix} Without a stream: {INSTEAD}.",
                kind=_NEEDED[one.rule],
                object=one.object,
            )
    health = slots.health(conn, slot)
    if health.exists:
        slots.require(health)
    else:
        _room(conn, where)
    return [f"{one.object} {one.problem}. {one.fix}" for one in found if one.rule in _WORTH_TELLING and one.severity in (ERROR, WARNING)]


def _room(conn: psycopg.Connection[Any], where: str) -> None:
    row = certain(
        conn.execute(
            "SELECT current_setting('max_replication_slots')::int, (SELECT count(*) FROM pg_replication_slots),"
            " current_setting('max_wal_senders')::int, (SELECT count(*) FROM pg_stat_replication)"
        ).fetchone(),
        "the row of the limits",
    )
    for kind, name, total, used, drop in (
        ("no_free_slot", "max_replication_slots", row[0], row[1], "drop a slot that nobody reads"),
        ("no_wal_sender", "max_wal_senders", row[2], row[3], "end a replication connection that nobody needs"),
    ):
        if used >= total:
            raise TransferError(
                f"all {total} of {name} are taken on {where}, and the stream needs one",
                f"Run ALTER SYSTEM SET {name} = {total + 2}; and restart the server, or {drop}. Without a stream: {INSTEAD}.",
                kind=kind,
            )


def readable(endpoint: Endpoint, uid: int, groups: frozenset[int]) -> None:
    """Raise TransferError of kind unreadable when the service could not read a file that the endpoint names (certificates, keys, passwords)."""
    given = endpoint.parameters()
    for keyword in _FILES:
        path = given.get(keyword, "")
        if not path or path == "system":
            continue
        why = _unreadable(Path(path), uid, groups)
        if why:
            raise TransferError(
                f"{keyword} of {endpoint.describe()} is {path}, and the service cannot read it: {why}",
                "Put a copy below /etc, readable by the service's user, and give that path.",
                kind="unreadable",
                path=path,
            )


def _unreadable(path: Path, uid: int, groups: frozenset[int]) -> str:
    """Why a user cannot read a file, '' when it can. Judged from owners and modes, without becoming that user."""
    if any(path.is_relative_to(folder) for folder in _HIDDEN):
        return "its sandbox hides that folder"
    for place in [path, *path.parents]:
        try:
            found = place.stat()
        except OSError as error:
            return f"{place}: {error.strerror}"
        needed = stat.S_IROTH if place == path else stat.S_IXOTH
        shift = 6 if found.st_uid == uid else 3 if found.st_gid in groups else 0
        if not found.st_mode & (needed << shift):
            return f"the mode of {place} is {stat.S_IMODE(found.st_mode):04o}"
    return ""
