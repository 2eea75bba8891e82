# Copyright: cutover.hetzner contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""How many sessions a copy may open on either side, and how many workers that makes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .endpoint import Endpoint
from .errors import TransferError

if TYPE_CHECKING:
    import psycopg

# Sessions left for others: an application that cannot connect is worse than a slower copy.
RESERVE = 3
# Supabase's session pooler lends this many on its smallest plan.
POOLER_SESSIONS = 15
POOLER_RESERVE = 3
# On the source beside the workers' own: the holder, the keeper, and for moments one more (a check, or a slot being made).
SOURCE_EXTRA = 3
TARGET_EXTRA = 1

# What others' sessions are is hidden from ordinary roles; they count as clients then.
_FREE = """
SELECT current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int
         - coalesce(current_setting('reserved_connections', true)::int, 0)
         - (SELECT count(*) FROM pg_stat_activity WHERE datid IS NOT NULL AND coalesce(backend_type, 'client backend') = 'client backend'),
       (SELECT CASE WHEN rolconnlimit < 0 OR rolsuper THEN NULL ELSE rolconnlimit
          - (SELECT count(*) FROM pg_stat_activity WHERE usename = rolname) END FROM pg_roles WHERE rolname = current_user),
       (SELECT CASE WHEN datconnlimit < 0 THEN NULL ELSE datconnlimit
          - (SELECT count(*) FROM pg_stat_activity a WHERE a.datid = d.oid AND coalesce(a.backend_type, 'client backend') = 'client backend') END
        FROM pg_database d WHERE datname = current_database())
"""


@dataclass(frozen=True)
class Room:
    """Sessions that a copy may have on a server, those it has already among them. why: what limits them, for people."""

    sessions: int
    why: str


def is_session_pooler(endpoint: Endpoint) -> bool:
    """Whether an address is that of Supabase's pooler."""
    host = endpoint.parameters().get("host", "")
    return endpoint.flavour == "supabase" and host.endswith(".pooler.supabase.com")


def room(conn: psycopg.Connection[Any], endpoint: Endpoint, mine: int, given: int | None) -> Room:
    """What a server has room for. mine: sessions of ours that are open now; given: the operator's own limit, which is taken as it is."""
    if given is not None:
        return Room(given, f"connections is {given}")
    if is_session_pooler(endpoint):
        return Room(POOLER_SESSIONS - POOLER_RESERVE, f"the session pooler lends {POOLER_SESSIONS}, {POOLER_RESERVE} stay for others")
    free, role, database = conn.execute(_FREE).fetchone() or (0, None, None)
    limits = [(int(free) - RESERVE, f"the server has {free} free, {RESERVE} stay for others")]
    if role is not None:
        limits.append((int(role), f"the role's own limit leaves {role}"))
    if database is not None:
        limits.append((int(database) - RESERVE, f"the database's own limit leaves {database}, {RESERVE} of them for others"))
    sessions, why = min(limits)
    return Room(sessions + mine, why)


def workers(wanted: int, source: Room, target: Room) -> tuple[int, tuple[str, ...]]:
    """(workers, warnings) within both rooms. Pure. Raises TransferError of kind too_many_connections when there is none for a single one."""
    warnings = []
    count = wanted
    for side, found, extra in (("source", source, SOURCE_EXTRA), ("target", target, TARGET_EXTRA)):
        fits = found.sessions - extra
        if fits < 1:
            raise TransferError(
                f"the {side} has room for {max(found.sessions, 0)} sessions ({found.why}), a copy needs at least {extra + 1}",
                "Raise the limit, end sessions that nobody needs, or give connections yourself.",
                kind="connections",
                side=side,
                sessions=found.sessions,
            )
        if fits < count:
            warnings.append(f"{fits} workers instead of {count}: {found.why} on the {side}, {extra} go to the snapshot and the ledger")
            count = fits
    return count, tuple(warnings)
