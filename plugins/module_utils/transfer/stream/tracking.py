# Copyright: cutover.hetzner contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What is to be done with a relation of the stream: its shape, or nothing, from which position on."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from .. import session
from ..catalog import quote_ident
from ..errors import TransferError, certain
from ..selection import Name
from . import facts, roster, state
from .batch import Row
from .config import FORWARD, Config
from .feed import Tracked
from .pgoutput import NULL, Relation, TypeName, lsn_number, lsn_text
from .shapes import Route, Shape, route_of, shape
from .start import Begun

if TYPE_CHECKING:
    import psycopg

APPLICATION = "cutover applier catalogue"


class Tracker:
    """Knows both sides' tables as they were when the stream began, and the receiver's as they are."""

    def __init__(self, config: Config, begun: Begun) -> None:
        self.config, self.begin, self.applied = config, begun.stream.begin, begun.stream.applied
        self.routes, self.positions, self.facts = dict(begun.routes), dict(begun.positions), begun.known
        self.forward = config.direction == FORWARD
        # Tables of the sender that came after the stream had begun.
        self._new: set[Name] = set()
        # Kept for questions about single rows.
        self._asking: psycopg.Connection[Any] | None = None

    def close(self) -> None:
        """Let go of what is kept open."""
        if self._asking is not None:
            self._asking.close()

    def track(self, relation: Relation, types: dict[int, TypeName]) -> Tracked:
        """What is to be done with a relation. Raises TransferError of kind new_table, definition_changed, key_missing, or of a lost connection."""
        name = relation.schema, relation.name
        sent = self.config.sent
        route = self.routes.get(name)
        if not sent.matches(*name, route.root if route else None):
            self._leave_out(name)
            return Tracked(None, 0)
        if route is None or (route.target is None and self.forward):
            route = self._learn(relation, left_out=route is not None)
        if route.target is None:
            return Tracked(None, 0)
        since, uneven = self._since(name)
        found = self._shape(relation, types, route)
        return Tracked(found, since, self._leaf_finder(found, uneven) if uneven else None, self._parts(route))

    def _shape(self, relation: Relation, types: dict[int, TypeName], route: Route) -> Shape:
        def attempt() -> Shape:
            return shape(
                relation,
                types,
                self.facts,
                self.config.sent,
                route,
                forward=self.forward,
                known=route.sender not in self._new,
                type_name=self._type_name,
            )

        try:
            return attempt()
        except TransferError:
            # It may have been mended since we looked.
            with self._connect() as conn:
                self.facts = facts.read(conn, self.config.sent.inverted())
            return attempt()

    def _connect(self) -> psycopg.Connection[Any]:
        return session.connect(self.config.receiving, application_name=APPLICATION)

    def _type_name(self, oid: int, modifier: int) -> str:
        with self._connect() as conn:
            row = conn.execute("SELECT pg_catalog.format_type(%s::oid, %s)", (oid, modifier)).fetchone()
        return str(certain(row, "the name of a type")[0])

    def _leave_out(self, name: Name) -> None:
        """Remember that changes of a table were left out, in case it is selected later."""
        if self.forward and name not in self.routes:
            self.routes[name] = Route(name, None)
            with self._connect() as conn:
                state.remember(conn, self.config.direction, [self.routes[name]])

    def _learn(self, relation: Relation, left_out: bool) -> Route:
        """A table that was not there, or not selected, when the stream began."""
        name = relation.schema, relation.name
        with session.connect(self.config.sending, application_name=APPLICATION, read_only=True) as sender, self._connect() as receiver:
            known = {one for one, route in self.routes.items() if route.target is not None}
            drawn = [route for route in roster.draw_up(sender, receiver, self.config.sent, forward=self.forward).routes if route.target]
            fresh = {route.sender: route for route in drawn if route.sender not in known}
            self._new |= fresh.keys() | {name}
            # Where the receiver lacks it, the shape will say so, with the name that it should have.
            route = fresh.get(name) or route_of(relation, self.config.sent)
            if self.forward:
                parts = {name, *(one for one, part in fresh.items() if part.root == name)}
                missing = roster.missing(receiver, only=parts)
                if missing and name in fresh:
                    raise _not_copied(name, "; ".join(missing))
                self.positions |= roster.positions(receiver, self.config.slot, parts)
            self.routes |= {**fresh, name: route}
            if left_out and name in fresh and self._since(name)[0] < self.applied:
                raise _not_copied(name, f"its changes up to {lsn_text(self.applied)} were left out, and its copy is older")
            state.remember(receiver, self.config.direction, fresh.values())
        return route

    def _since(self, name: Name) -> tuple[int, dict[Name, int]]:
        """(position from which on changes count, {partition: its own} where its partitions differ)."""
        if not self.forward:
            if name in self._new:
                raise _not_copied(name, "it came after the way back was prepared")
            return self.begin, {}
        if name in self.positions:
            return self.positions[name], {}
        leaves = {
            one.sender: self.positions[one.sender] for one in self.routes.values() if one.root == name and one.sender in self.positions
        }
        if leaves:
            uneven = len(set(leaves.values())) > 1
            return min(leaves.values()), leaves if uneven else {}
        there = self.facts.tables.get(self.routes[name].target or name)
        if name in self._new or (there is not None and there.table.kind != "p"):
            raise _not_copied(name, "no copy has brought it")
        # A partitioned table that had no partitions when it was copied; or one that is gone, which its shape will say.
        return self.begin, {}

    def _parts(self, route: Route) -> frozenset[Name]:
        """All partitions of the sender that go where this one goes, where that is not a table of its own."""
        if route.root is None:
            return frozenset()
        same = [one.sender for one in self.routes.values() if one.root == route.root and one.target == route.target]
        top = self.routes.get(route.root)
        return frozenset(same) if top is not None and top.target == route.target else frozenset()

    def _leaf_finder(self, found: Shape, leaves: dict[Name, int]) -> tuple[int, Callable[[Row], int]]:
        """(position at which all partitions have caught up, from which position on changes of a row's partition count)."""
        targets = {name: self.routes[name].target for name in leaves}
        with self._connect() as conn:
            rows = [
                (
                    leaves[name],
                    certain(
                        conn.execute(
                            "SELECT pg_get_partition_constraintdef(to_regclass(format('%%I.%%I', %s::text, %s::text)))", target
                        ).fetchone(),
                        "the bound of a partition",
                    )[0],
                )
                for name, target in targets.items()
            ]
        cases = " ".join(f"WHEN {bound} THEN '{lsn_text(position)}'" for position, bound in rows if bound)
        columns = ", ".join(f"%s::{one.type_sql} AS {quote_ident(one.name)}" for one in found.fields)
        sql = f"SELECT CASE {cases.replace('%', '%%')} END FROM (SELECT {columns}) AS t"
        places = [one.place for one in found.fields]

        def since(row: Row) -> int:
            values = [None if (value := row[place]) is None or value == NULL else value[4:].decode() for place in places]
            if self._asking is None or self._asking.closed:
                self._asking = self._connect()
            answer = certain(self._asking.execute(sql, values).fetchone(), "the partition of a row")[0]
            if answer is None:
                raise TransferError(
                    f"the partitions of {found.relation.dotted} were copied at different positions, and a change does not tell which it belongs to",
                    f"Empty {'.'.join(found.target)} on the target and copy it again under one snapshot.",
                    kind="uneven_copy",
                    table=found.relation.dotted,
                )
            return lsn_number(answer)

        return max(leaves.values()), since


def _not_copied(name: Name, why: str) -> TransferError:
    dotted = ".".join(name)
    return TransferError(
        f"table {dotted} of the sender is new in the stream, and its rows are not in the receiving database: {why}",
        f"Run pg_schema_transfer and then pg_row_copy with the slot of this stream for {dotted}, or exclude it; then start the stream again.",
        kind="new_table",
        table=dotted,
    )
