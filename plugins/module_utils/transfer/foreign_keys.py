# Copyright: cutover.hetzner contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Foreign keys as work of a copy: made when the rows and indexes of both tables are in, and proved beside what else is built."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .builds import LINK, PROVE, Build
from .catalog import qualified, quote_ident
from .selection import Name

if TYPE_CHECKING:
    import psycopg

# Time to prove a key, per byte of the table that refers, against the time to copy a byte. Measured roughly; it only decides who goes first.
_PROOF_COST = 0.5

# Only between ordinary tables: a partitioned one takes no foreign key that is NOT VALID before PostgreSQL 18. Its partitions do, and one that
# has its key proved is taken as it is when the partitioned table gets its own (tryAttachPartitionForeignKey in tablecmds.c, 14 to 18).
_FACTS = """
SELECT k.oid::bigint, n.nspname::text, c.relname::text, k.conname::text, pg_get_constraintdef(k.oid), k.convalidated, fn.nspname::text, f.relname::text,
       (SELECT array_agg(a.attname::text) FROM pg_attribute a WHERE a.attrelid = k.conrelid AND a.attnum = ANY(k.conkey)),
       (SELECT array_agg(a.attname::text) FROM pg_attribute a WHERE a.attrelid = k.confrelid AND a.attnum = ANY(k.confkey)), k.conparentid <> 0
FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid JOIN pg_namespace n ON n.oid = c.relnamespace
JOIN pg_class f ON f.oid = k.confrelid JOIN pg_namespace fn ON fn.oid = f.relnamespace LEFT JOIN pg_constraint p ON p.oid = k.conparentid
WHERE k.contype = 'f' AND c.relkind = 'r' AND f.relkind = 'r' AND (k.conparentid = 0 OR (p.conrelid <> k.conrelid AND p.confrelid = k.confrelid))
ORDER BY 2, 3, 4
"""


@dataclass(frozen=True)
class ForeignKey:
    """A foreign key between ordinary tables or leaf partitions.

    definition: as the server words it; refers: the table that it refers to; columns, keys: names there and here; inherited: a partition's
    part of its partitioned table's key
    """

    oid: int
    schema: str
    table: str
    name: str
    definition: str
    valid: bool
    refers: Name
    columns: tuple[str, ...]
    keys: tuple[str, ...]
    inherited: bool

    @property
    def owner(self) -> Name:
        """(schema, table) that refers."""
        return self.schema, self.table

    @property
    def add(self) -> str:
        """Statement that makes it without looking at rows."""
        definition = self.definition.removesuffix(" NOT VALID")
        return f"ALTER TABLE ONLY {qualified(*self.owner)} ADD CONSTRAINT {quote_ident(self.name)} {definition} NOT VALID"

    @property
    def prove(self) -> str:
        """Statement that looks at all rows."""
        return f"ALTER TABLE {qualified(*self.owner)} VALIDATE CONSTRAINT {quote_ident(self.name)}"


def read(conn: psycopg.Connection[Any]) -> tuple[ForeignKey, ...]:
    """All that can be made in two steps. Definitions name every schema, since the session's search_path holds only pg_catalog."""
    rows = conn.execute(_FACTS).fetchall()
    return tuple(_fact(*row) for row in rows if "NOT ENFORCED" not in row[4])


def _fact(*row: Any) -> ForeignKey:
    oid, schema, table, name, definition, valid, there, refers, columns, keys, inherited = row
    return ForeignKey(oid, schema, table, name, definition, valid, (there, refers), tuple(columns), tuple(keys), inherited)


def missing(wanted: Iterable[ForeignKey], there: Iterable[ForeignKey], sizes: Mapping[Name, int]) -> tuple[Build, ...]:
    """What the target lacks of the source's foreign keys: per table one step that makes them and one that proves them. Pure.

    A key that is NOT VALID on the source stays so. sizes: bytes of the source's tables
    """
    have = {(*fact.owner, fact.name): fact for fact in there}
    by_table: dict[Name, list[ForeignKey]] = {}
    for fact in wanted:
        by_table.setdefault(fact.owner, []).append(fact)
    found: list[Build] = []
    for owner, facts in sorted(by_table.items()):
        absent = [fact for fact in facts if (*fact.owner, fact.name) not in have]
        unproved = [fact for fact in facts if fact.valid and not ((other := have.get((*fact.owner, fact.name))) and other.valid)]
        needs = tuple(sorted({".".join(fact.refers) for fact in (*absent, *unproved)}))
        if absent:
            found.append(Build(*owner, LINK, "", "", "; ".join(fact.add for fact in absent), 1, needs=needs))
        if unproved:
            weight = sum(int(sizes.get(owner, 0) * _PROOF_COST) for _fact in unproved) + 1
            size = max(sizes.get(fact.refers, 0) for fact in unproved)
            found.append(Build(*owner, PROVE, "", "", "; ".join(fact.prove for fact in unproved), weight, size, needs))
    return tuple(found)


def proofs_of_partitions(wanted: Iterable[ForeignKey], there: Sequence[ForeignKey]) -> dict[str, list[str]]:
    """{table: statements} for partitions whose part of a key was made and not proved: else their partitioned table would get a second one. Pure."""
    parts = {(*fact.owner, fact.name) for fact in wanted if fact.inherited and fact.valid}
    found: dict[str, list[str]] = {}
    for fact in there:
        if not fact.valid and not fact.inherited and (*fact.owner, fact.name) in parts:
            found.setdefault(qualified(*fact.owner), []).append(fact.prove)
    return found
