# Copyright: cutover.hetzner contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What of a database can be streamed, under which replica identity, and what happens to the rest. Pure.

A publication makes the server refuse every UPDATE and DELETE of a published table that has no replica identity: of the application's own, on
the live database. Nothing is published here that could be refused, now or when a partition is added.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ..catalog import qualified, quote_ident
from ..findings import listed
from ..selection import LARGE_OBJECTS, Name, Selection

# What becomes of an object that is not streamed.
FROZEN = "frozen"
NEVER = "never"
# From this version on the server refuses writes when a generated column belongs to the identity and is not published.
STRICT_GENERATED = 180000


@dataclass(frozen=True)
class Key:
    """A unique index that every row is in, immediate, on plain columns that are all NOT NULL: what may identify rows.

    generated: one of its columns is, so that its value is not in the stream; identity: it is the table's REPLICA IDENTITY USING INDEX
    """

    oid: int
    name: str
    primary: bool
    generated: bool = False
    identity: bool = False


@dataclass(frozen=True)
class Relation:
    """A relation of the sending database, as far as publishing is concerned.

    kind: pg_class.relkind, of r p f m; persistence: p or u; identity: pg_class.relreplident, of d n f i
    root: oid of the partitioned table on top, None unless it is a partition; owned: our role may alter it; generated: has a generated column
    keys: the primary key first, then the narrowest
    """

    oid: int
    schema: str
    name: str
    kind: str
    persistence: str = "p"
    identity: str = "d"
    owner: str = ""
    owned: bool = True
    root: int | None = None
    generated: bool = False
    keys: tuple[Key, ...] = ()

    @property
    def full_name(self) -> Name:
        """(schema, table)."""
        return self.schema, self.name

    @property
    def dotted(self) -> str:
        """``schema.table`` for messages and results."""
        return f"{self.schema}.{self.name}"

    @property
    def sql(self) -> str:
        """As a member of a publication: children of plain inheritance are members of their own."""
        name = qualified(self.schema, self.name)
        return name if self.kind == "p" else f"ONLY {name}"

    @property
    def identity_key(self) -> Key | None:
        """The index that identifies rows now; None for FULL, NOTHING, and an identity whose index is missing."""
        for key in self.keys:
            if (self.identity == "d" and key.primary) or (self.identity == "i" and key.identity):
                return key
        return None


@dataclass(frozen=True)
class Identity:
    """A replica identity: mode as pg_class.relreplident, and the index of mode i."""

    mode: str
    index: int | None = None
    index_name: str = ""

    @property
    def sql(self) -> str:
        """What follows REPLICA IDENTITY. An index that is gone leaves a table as NOTHING does."""
        if self.mode == "i" and self.index_name:
            return f"USING INDEX {quote_ident(self.index_name)}"
        return {"d": "DEFAULT", "f": "FULL"}.get(self.mode, "NOTHING")


@dataclass(frozen=True)
class Change:
    """A table that needs another replica identity before it may be published."""

    relation: Relation
    before: Identity
    after: Identity

    @property
    def statement(self) -> str:
        """The ALTER TABLE."""
        return f"ALTER TABLE {qualified(*self.relation.full_name)} REPLICA IDENTITY {self.after.sql}"


@dataclass(frozen=True)
class NotStreamed:
    """Something that the stream does not carry. instead: FROZEN (brought over while writes are stopped) or NEVER; name: of a table, else None."""

    object: str
    reason: str
    instead: str
    name: Name | None = None

    def plain(self) -> dict[str, str]:
        """For a module's result."""
        told = "it is brought over while writes are stopped" if self.instead == FROZEN else "it is not moved"
        return {"object": self.object, "reason": f"{self.reason}; {told}"}


@dataclass(frozen=True)
class Existing:
    """A publication that is there.

    ours: made by this collection, known by its comment; complete: publishes all four kinds of changes, of all rows and columns
    """

    ours: bool
    all_tables: bool
    via_root: bool
    complete: bool
    by_schema: bool
    tables: frozenset[int]


@dataclass(frozen=True)
class Outlook:
    """What is to be published and how.

    tables: members of the publication, a partitioned table where its partitions go through it; identities: to be set before
    state: absent, equal, differs (ours, to be altered), usable (somebody else's that covers everything) or foreign (somebody else's)
    """

    tables: tuple[Relation, ...]
    not_streamed: tuple[NotStreamed, ...]
    identities: tuple[Change, ...]
    warnings: tuple[str, ...]
    state: str = "absent"

    @property
    def changed(self) -> bool:
        """Whether anything has to be done on the server."""
        return bool(self.identities) or self.state in ("absent", "differs")

    def names(self) -> list[str]:
        """``schema.table`` of the members, by name."""
        return [table.dotted for table in self.tables]


def works(relation: Relation, version: int) -> bool:
    """Whether the server lets a published table be updated under its present identity, and the stream says which row it was."""
    if relation.identity == "f":
        return not (relation.generated and version >= STRICT_GENERATED)
    key = relation.identity_key
    return key is not None and not key.generated


def best(relation: Relation, version: int, full_identity: bool) -> Identity | None:
    """The identity to publish a table under that has none that works; None when there is none."""
    for key in relation.keys:
        if not key.generated:
            return Identity("d") if key.primary else Identity("i", key.oid, key.name)
    if full_identity and not (relation.generated and version >= STRICT_GENERATED):
        return Identity("f")
    return None


def present(relation: Relation) -> Identity:
    """The identity that a table has."""
    key = relation.identity_key if relation.identity == "i" else None
    return Identity(relation.identity, key.oid if key else None, key.name if key else "")


class _Decision:
    """Collects what is decided table by table."""

    def __init__(self, version: int, full_identity: bool, elevated: bool) -> None:
        self.version, self.full_identity, self.elevated = version, full_identity, elevated
        self.tables: list[Relation] = []
        self.apart: list[NotStreamed] = []
        self.changes: list[Change] = []
        self.warnings: list[str] = []

    def leave(self, relation: Relation, reason: str, instead: str = FROZEN) -> None:
        self.apart.append(NotStreamed(relation.dotted, reason, instead, relation.full_name))

    def kind(self, relation: Relation) -> bool:
        """Whether the stream can carry this kind of relation; one that it cannot is noted."""
        if relation.kind == "f":
            self.leave(relation, "its rows are on another server, as of a foreign table", NEVER)
        elif relation.kind == "m":
            self.leave(relation, "a materialized view is refreshed on the other side, not copied", NEVER)
        elif relation.persistence == "u":
            self.leave(relation, "changes of an unlogged table are not in the log")
        else:
            return True
        return False

    def may_publish(self, relation: Relation) -> bool:
        if relation.owned or self.elevated:
            return True
        self.leave(
            relation,
            f"it belongs to {relation.owner}, and only its owner may publish it (GRANT {quote_ident(relation.owner)} to our role to stream it)",
        )
        return False

    def single(self, relation: Relation) -> None:
        """A table of its own, or a partition that is published by itself."""
        if not self.kind(relation) or not self.may_publish(relation):
            return
        if not works(relation, self.version):
            wanted = best(relation, self.version, self.full_identity)
            if wanted is None:
                self.leave(relation, self._hopeless(relation))
                return
            if not relation.owned:
                self.leave(relation, f"it needs REPLICA IDENTITY {wanted.sql}, which only its owner {relation.owner} may set")
                return
            self.changes.append(Change(relation, present(relation), wanted))
        self.tables.append(relation)

    def _hopeless(self, relation: Relation) -> str:
        if relation.generated and self.version >= STRICT_GENERATED:
            return "it has a generated column and no key without one: from PostgreSQL 18 on the server would refuse its updates once it is published"
        return "it has no key, and full_identity is off"

    def tree(self, root: Relation, leaves: Sequence[Relation], selected: Sequence[Relation], taken: bool) -> None:
        """A partitioned table: through its root where every partition, also one made later, has the root's primary key."""
        local = [leaf for leaf in leaves if leaf.kind == "r"]
        whole = taken and all(leaf in selected for leaf in local)
        keyed = any(key.primary and not key.generated for key in root.keys)
        if not (whole and keyed):
            self._apart(root, selected, taken, keyed)
            return
        if not self.may_publish(root):
            return
        carried = [leaf for leaf in selected if self.kind(leaf)]
        wanted = Identity("d")
        # The stream describes rows by the identity of the root and sends what the partition's own has logged.
        changes = [Change(one, present(one), wanted) for one in carried if not self._fits_root(one)]
        if root.identity != "d":
            changes.append(Change(root, present(root), wanted))
        foreign = [change.relation for change in changes if not change.relation.owned]
        if foreign:
            names = listed([one.dotted for one in foreign])
            self.leave(root, f"{names} would need REPLICA IDENTITY DEFAULT, which only the owner may set")
            return
        self.changes += changes
        self.tables.append(root)

    def _fits_root(self, leaf: Relation) -> bool:
        return leaf.identity == "d" or (leaf.identity == "f" and works(leaf, self.version))

    def _apart(self, root: Relation, selected: Sequence[Relation], taken: bool, keyed: bool) -> None:
        for leaf in selected:
            self.single(leaf)
        if taken:
            why = "it has no primary key, and a partition made later would refuse updates" if not keyed else "not all of them are selected"
            self.warnings.append(
                f"{root.dotted} is streamed partition by partition, since {why}: one that is added from now on is not in the stream"
                " until pg_change_stream is run again"
            )


def decide(
    relations: Iterable[Relation],
    selection: Selection,
    version: int,
    *,
    existing: Existing | None = None,
    full_identity: bool = True,
    elevated: bool = False,
    large_objects: bool = False,
) -> Outlook:
    """What is published of these relations.

    selection: as seen from the sending side; version: of the server, 150018 for 15.18; existing: the publication of the name that will be used
    elevated: our role may publish what it does not own; large_objects: there are some
    """
    known = sorted(relations, key=lambda one: one.full_name)
    roots = {one.oid: one for one in known if one.root is None}
    partitions: dict[int, list[Relation]] = {}
    for one in known:
        if one.root is not None and one.kind != "p":
            partitions.setdefault(one.root, []).append(one)
    to = _Decision(version, full_identity, elevated)
    for one in roots.values():
        taken = selection.matches(*one.full_name)
        if one.kind == "p":
            leaves = partitions.get(one.oid, [])
            selected = [leaf for leaf in leaves if selection.matches(*leaf.full_name, one.full_name)]
            if taken or selected:
                to.tree(one, leaves, selected, taken)
        elif taken:
            to.single(one)
    if large_objects and selection.large_objects:
        to.apart.append(NotStreamed(LARGE_OBJECTS, "large objects are not in the stream", FROZEN))
    full = [change.relation.dotted for change in to.changes if change.after.mode == "f"]
    if full:
        to.warnings.append(f"these tables have no key and get REPLICA IDENTITY FULL, which logs every old row as a whole: {listed(full)}")
    return Outlook(tuple(to.tables), tuple(to.apart), tuple(to.changes), tuple(to.warnings), judge(existing, to.tables))


def judge(existing: Existing | None, tables: Iterable[Relation]) -> str:
    """State of a publication against the members that it should have, as in :class:`Outlook`."""
    if existing is None:
        return "absent"
    members = list(tables)
    wanted = {table.oid for table in members}
    plain = existing.complete and existing.via_root and not existing.by_schema
    if existing.ours:
        return "equal" if plain and not existing.all_tables and existing.tables == wanted else "differs"
    # With all tables published through their roots, partitions cannot be members of their own.
    covers = existing.tables >= wanted or (existing.all_tables and all(table.root is None for table in members))
    return "usable" if plain and covers else "foreign"
