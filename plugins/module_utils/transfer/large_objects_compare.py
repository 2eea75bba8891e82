# Copyright: cutover.hetzner contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Large objects of two sides: whether they are the same, and making them so under a freeze. Contents are hashed where they are."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from . import large_objects, session
from .large_objects import LAST_OID, State

if TYPE_CHECKING:
    import psycopg

    Conn = psycopg.Connection[Any]

# Objects per question: enough to hide the way there and back, few enough to keep several workers busy.
OBJECTS_PER_QUERY = 500


class Sides(Protocol):
    """A connection to each side, in a transaction under a snapshot; ``both`` asks both servers at once."""

    source: Conn
    target: Conn

    def both(self, source_sql: str, target_sql: str) -> tuple[list[Any], list[Any]]:
        """Rows of both."""


@dataclass(frozen=True)
class ChangedObject:
    """An object that both sides have. what: content, owner, privileges, comment, as far as they differ."""

    oid: int
    what: tuple[str, ...]


@dataclass(frozen=True)
class VerifiedObjects:
    """Large objects compared. Lists hold numbers and are capped, counts never. missing: on the source only; bytes: of the source's."""

    count: int = 0
    target_count: int = 0
    bytes: int = 0
    missing: tuple[int, ...] = ()
    extra: tuple[int, ...] = ()
    changed: tuple[ChangedObject, ...] = ()
    missing_count: int = 0
    extra_count: int = 0
    changed_count: int = 0
    seconds: float = 0.0

    @property
    def equal(self) -> bool:
        """Whether nothing differs."""
        return not (self.missing_count or self.extra_count or self.changed_count)


@dataclass(frozen=True)
class BroughtObjects:
    """What was done to make the target's large objects equal. bytes: sent for it."""

    created: int = 0
    changed: int = 0
    deleted: int = 0
    bytes: int = 0

    @property
    def any(self) -> bool:
        """Whether anything was done, or with check would be."""
        return bool(self.created or self.changed or self.deleted)


@dataclass(frozen=True)
class _Differences:
    """Of one range: states of both sides, None where an object is on one only, and bytes of the source."""

    found: tuple[tuple[State | None, State | None], ...]
    bytes: int


def verify(ours: Conn, theirs: Conn, sides: Callable[[], Sides], pool: Executor, *, cap: int, contents: bool = True) -> VerifiedObjects:
    """Compare all large objects: numbers, contents, owners, privileges, comments.

    ours, theirs: in transactions under the snapshots, as are those of ``sides``, which gives each thread of the pool its own
    contents: without, only how many there are. Raises TransferError when our role may not read all of them.
    """
    started = time.monotonic()
    here, there = large_objects.count(ours), large_objects.count(theirs)
    if not (here or there):
        return VerifiedObjects()
    if not contents:
        gap = here - there
        return VerifiedObjects(here, there, missing_count=max(gap, 0), extra_count=max(-gap, 0), seconds=time.monotonic() - started)
    size = 0
    missing: list[int] = []
    extra: list[int] = []
    changed: list[ChangedObject] = []
    for differences in _compare(ours, theirs, sides, pool):
        size += differences.bytes
        missing += [left.oid for left, right in differences.found if left and right is None]
        extra += [right.oid for left, right in differences.found if right and left is None]
        changed += [ChangedObject(left.oid, aspects(left, right)) for left, right in differences.found if left and right]
    return VerifiedObjects(
        here,
        there,
        size,
        tuple(missing[:cap]),
        tuple(extra[:cap]),
        tuple(changed[:cap]),
        len(missing),
        len(extra),
        len(changed),
        time.monotonic() - started,
    )


def resync(
    ours: Conn, theirs: Conn, sides: Callable[[], Sides], pool: Executor, writer: Callable[[], Conn], *, check: bool = False
) -> BroughtObjects:
    """Make the target's large objects equal to those of a source that stands still.

    ours, theirs, sides, pool: as for :func:`verify`; writer: opens a session that may write, closed here; check: only count
    Raises TransferError. What was done stays done: a rerun finds only what is left.
    """
    if not (large_objects.count(ours) or large_objects.count(theirs)):
        return BroughtObjects()
    found = [pair for differences in _compare(ours, theirs, sides, pool) for pair in differences.found]
    created = [left for left, right in found if left and right is None]
    deleted = [right.oid for left, right in found if right and left is None]
    both = [(left, right) for left, right in found if left and right]
    sent = 0
    if found and not check:
        large_objects.refuse_roles(ours, theirs)
        with writer() as conn:
            try:
                sent = _apply(ours, conn, created, deleted, both)
            except session.psycopg.Error as error:
                raise large_objects.explained(error, "bringing large objects over") from error
    return BroughtObjects(len(created), len(both), len(deleted), sent)


def _apply(ours: Conn, conn: Conn, created: list[State], deleted: list[int], both: Sequence[tuple[State, State]]) -> int:
    # What its owner may not write is made anew, since it is written as its owner.
    sealed = [left for left, right in both if "content" in aspects(left, right) and not _writable(right)]
    numbers = {state.oid for state in sealed}
    sent = 0
    large_objects.remove(conn, deleted)
    for left, right in both:
        if left.oid not in numbers:
            with conn.transaction():
                sent += large_objects.patch(ours, conn, left, right)
    # Removed and made anew in one transaction, so that no moment is without them.
    for some, gone in ((created, False), (sealed, True)):
        for start in range(0, len(some), OBJECTS_PER_QUERY):
            part = some[start : start + OBJECTS_PER_QUERY]
            with conn.transaction():
                if gone:
                    large_objects.remove(conn, [state.oid for state in part])
                sent += large_objects.bring(ours, conn, part, lambda _sent, _seen: None)[1]
    return sent


def _writable(state: State) -> bool:
    return any(item.grantee == state.owner and item.privilege == "UPDATE" for item in state.items)


def aspects(left: State, right: State) -> tuple[str, ...]:
    """In what two states of an object differ."""
    found = {
        "content": (left.size, left.digest) != (right.size, right.digest),
        "owner": left.owner != right.owner,
        "privileges": set(left.items) != set(right.items),
        "comment": left.comment != right.comment,
    }
    return tuple(name for name, differs in found.items() if differs)


def merge(ours: Sequence[State], theirs: Sequence[State]) -> list[tuple[State | None, State | None]]:
    """Objects of a range that are not the same on both sides, by number."""
    left, right = ({state.oid: state for state in side} for side in (ours, theirs))
    pairs = [(left.get(oid), right.get(oid)) for oid in sorted({*left, *right})]
    return [(one, other) for one, other in pairs if one is None or other is None or aspects(one, other)]


def _compare(ours: Conn, theirs: Conn, sides: Callable[[], Sides], pool: Executor) -> Iterator[_Differences]:
    large_objects.refuse_unreadable(ours, "source")
    large_objects.refuse_unreadable(theirs, "target")
    rows = ours.execute(
        "SELECT o FROM (SELECT oid::bigint, row_number() OVER (ORDER BY oid) FROM pg_largeobject_metadata) x(o, n)"
        f" WHERE n % {OBJECTS_PER_QUERY} = 1 ORDER BY 1"
    ).fetchall()
    edges = [0, *(row[0] for row in rows[1:]), LAST_OID + 1]

    def one(lo: int, following: int) -> _Differences:
        query = large_objects.states_sql(lo, following - 1, True)
        left, right = ([large_objects.state_of(row) for row in found] for found in sides().both(query, query))
        return _Differences(tuple(merge(left, right)), sum(state.size for state in left))

    yield from pool.map(one, edges[:-1], edges[1:])
