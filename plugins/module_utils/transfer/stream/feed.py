# Copyright: cutover.hetzner contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Messages of the spool into a batch: which transactions and which tables count, and where a batch ends."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from .. import session
from ..errors import TransferError, certain
from ..selection import Name
from . import pgoutput
from .batch import Batch, Row
from .conflicts import Place
from .pgoutput import NULL, Change, Message, Relation, Truncate, TypeName, Value, begin_facts, commit_end, decode, decode_change
from .shapes import Shape

PREFIX = "cutover"
FENCE = "fence:"
# Why a batch ended: nothing more is there; so much that it is sent in the middle of a transaction; a transaction was the last one to go in; the next
# one begins where nothing may go in any more.
END, FULL, WHOLE, LIMIT = "end", "full", "whole", "limit"
_TRUNCATE, _BEGIN, _COMMIT = b"TBC"
_ROWS = frozenset(b"IUD")
_OID = struct.Struct(">I").unpack_from
_EVERY = 255


@dataclass(frozen=True)
class Limits:
    """Of a batch. changes, size: what lets it end with the transaction at hand; half a batch more lets it end in the middle of one."""

    changes: int = 5000
    size: int = 8 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Tracked:
    """A relation of the sender. shape: None for one that is not ours; since: transactions committed below it are in the table's copy.

    uneven: where its partitions were copied at different positions, the highest of them and what tells a row's own
    parts: of a partition that the receiver does not have, the names of all that go through the same table there
    """

    shape: Shape | None
    since: int
    uneven: tuple[int, Callable[[Row], int]] | None = None
    parts: frozenset[Name] = frozenset()


@dataclass(slots=True)
class Load:
    """One transaction of the receiving database: what goes into it, and where the stream stands afterwards.

    applied: end of the last whole transaction in it; final: start of the newest commit record in it, of one that is not whole, too
    fence: (id, position) of a fence that ended it; inside: its newest transaction is not whole
    """

    batch: Batch
    transactions: int = 0
    changes: int = 0
    applied: int = 0
    final: int = 0
    xid: int = 0
    commit_time: int = 0
    fence: tuple[str, int] | None = None
    inside: bool = False

    @property
    def place(self) -> Place:
        """Of the newest transaction in it."""
        return Place(self.final, self.xid)

    @property
    def empty(self) -> bool:
        """Whether there is nothing in it, not even a transaction without changes."""
        return not (self.transactions or self.inside)


class HaltError(Exception):
    """Nothing may be applied from a transaction on. final: start of its commit record; error: why."""

    def __init__(self, final: int, error: TransferError) -> None:
        super().__init__(error.message)
        self.final, self.error = final, error


@dataclass
class Feed:
    """Takes messages in. track: what is to be done with a relation, raises TransferError when it cannot be done.

    ignored: changes of tables that are not ours, or that their copies hold already
    """

    track: Callable[[Relation, dict[int, TypeName]], Tracked]
    relations: dict[int, Relation] = field(default_factory=dict)
    types: dict[int, TypeName] = field(default_factory=dict)
    tracked: dict[int, Tracked] = field(default_factory=dict)
    ignored: int = 0
    _skipping: bool = False

    def take(
        self,
        messages: Iterable[tuple[int, bytes]],
        load: Load,
        applied: int,
        limit: int | None,
        limits: Limits,
        tick: Callable[[], None],
        *,
        single: bool = False,
    ) -> str:
        """Fill a load; why it ended: END, FULL, WHOLE or LIMIT.

        applied: transactions with a commit record that starts below it are left out; limit: those that start there or later do not go in
        single: it ends with every transaction; tick: called now and then
        Raises HaltError, or DisorderError for a batch whose changes cannot be joined.
        """
        batch = load.batch
        tracked, final, skipping = self.tracked, load.final, self._skipping
        most_changes, most_size = limits.changes * 2, limits.size * 2
        try:
            for _position, data in messages:
                kind = data[0]
                if kind in _ROWS:
                    if skipping:
                        continue
                    (oid,) = _OID(data, 1)
                    found = tracked.get(oid) or self._resolve(oid, final)
                    shape = found.shape
                    if shape is None or final < found.since:
                        self.ignored += 1
                        continue
                    change = decode_change(data)
                    if found.uneven is not None and final < found.uneven[0] and self._copied(found.uneven[1], change, final):
                        continue
                    if shape.empty:
                        self._refuse_filled(shape, change, final)
                    batch.take(shape, change)
                    batch.size += len(data)
                    if batch.changes >= most_changes or batch.size >= most_size:
                        return FULL
                    if not batch.changes & _EVERY:
                        tick()
                elif kind == _BEGIN:
                    start, commit_time, xid = begin_facts(data)
                    if limit is not None and start >= limit:
                        return LIMIT
                    final, skipping = start, start < applied
                    if not skipping:
                        load.final, load.xid, load.commit_time, load.inside = start, xid, commit_time, True
                elif kind == _COMMIT:
                    if skipping:
                        continue
                    load.applied, load.inside = commit_end(data), False
                    load.transactions += 1
                    if single or load.fence is not None or batch.changes >= limits.changes or batch.size >= limits.size:
                        return WHOLE
                elif kind == _TRUNCATE:
                    if not skipping:
                        self._truncate(load, decode(data))
                else:
                    self._describe(load, decode(data), skipping)
            return END
        finally:
            self._skipping = skipping

    def _describe(self, load: Load, message: pgoutput.Decoded, skipping: bool) -> None:
        if isinstance(message, Relation):
            if self.relations.get(message.oid) != message:
                self.relations[message.oid] = message
                self.tracked.pop(message.oid, None)
        elif isinstance(message, TypeName):
            if self.types.get(message.oid) != message:
                self.types[message.oid] = message
        elif isinstance(message, Message) and not skipping and message.transactional and message.prefix == PREFIX:
            text = message.content.decode(errors="replace")
            if text.startswith(FENCE):
                load.fence = text.removeprefix(FENCE), message.lsn

    def _resolve(self, oid: int, final: int) -> Tracked:
        relation = self.relations.get(oid)
        try:
            if relation is None:
                raise TransferError(
                    f"the stream holds a change of a relation ({oid}) that it has not described",
                    "Report this as a fault of cutover.hetzner, with the version of the sending server.",
                    kind="protocol",
                )
            found = self.tracked[oid] = self.track(relation, self.types)
        except TransferError as error:
            if session.is_lost(error):
                raise
            raise HaltError(final, error) from error
        return found

    def _copied(self, since: Callable[[Row], int], change: Change, final: int) -> bool:
        """Whether the partition that a change belongs to was copied later than it happened."""
        row = certain(change.key or change.old if isinstance(change, pgoutput.Delete) else change.new, "the row of a change")
        try:
            copied = final < since(row)
        except TransferError as error:
            raise HaltError(final, error) from error
        self.ignored += copied
        return copied

    def _refuse_filled(self, shape: Shape, change: Change, final: int) -> None:
        if isinstance(change, pgoutput.Delete):
            return
        for place, column, allowed in shape.empty:
            value: Value = change.new[place]
            if value is not None and value not in (NULL, allowed):
                raise HaltError(
                    final,
                    TransferError(
                        f"column {column} of {shape.relation.dotted} holds data now, and {'.'.join(shape.target)} of the receiver never had it",
                        f"Run on the receiver, with the sender's type and default: ALTER TABLE {shape.sql} ADD COLUMN ...; copy the table again if"
                        " older rows hold data there, too; then start the stream again.",
                        kind="definition_changed",
                        table=shape.relation.dotted,
                        column=column,
                    ),
                )

    def _truncate(self, load: Load, message: pgoutput.Decoded) -> None:
        if not isinstance(message, Truncate):
            return
        shapes: list[Shape] = []
        names: set[Name] = set()
        parts: set[Name] = set()
        for oid in message.relations:
            found = self.tracked.get(oid) or self._resolve(oid, load.final)
            if found.shape is None or load.final < found.since:
                self.ignored += 1
                continue
            names.add((found.shape.relation.schema, found.shape.relation.name))
            parts |= found.parts
            if found.shape.sql not in {shape.sql for shape in shapes}:
                shapes.append(found.shape)
        if parts - names:
            raise HaltError(load.final, _part_emptied(names, load))
        if shapes:
            load.batch.truncate(shapes, message.restart)


def _part_emptied(names: set[Name], load: Load) -> TransferError:
    told = ", ".join(sorted(".".join(name) for name in names))
    return TransferError(
        f"{told} was emptied on the sender as a part of a larger table, and the receiver does not have that part as a table of its own ({load.place})",
        "Delete its rows in the receiving database, make a partition of that name there, then start the stream again.",
        kind="conflict",
        operation="truncate",
        table=told,
        lsn=pgoutput.lsn_text(load.final),
        xid=load.xid,
    )
