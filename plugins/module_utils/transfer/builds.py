# Copyright: cutover.hetzner contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Indexes and constraints as work of a copy: what the target lacks, in statements, and in which order it is done."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .catalog import qualified, quote_ident
from .chunks import Chunk
from .errors import TransferError
from .selection import Name, Rename

if TYPE_CHECKING:
    import psycopg

INDEX, SETTLE, ANALYZE, LINK, PROVE = range(5)
# Time to build, per byte of the finished index, against the time to copy a byte of a table. Measured roughly; they only decide who goes first.
_COST = {"btree": 1.5, "gin": 6.0, "gist": 5.0, "spgist": 5.0, "hash": 2.0}
_OTHER_COST = 4.0
# Every build reads its table once.
_READ_COST = 0.05
# GIN wants little memory, whatever there is: larger accumulators are slower to fill and make a larger index.
_GIN_MEMORY = 16 * 1024**2
# A sort in pieces that the processor's cache holds, merged once, needs less time than one in memory; a merge takes 272 kB per piece
# (tuplesort_merge_order in tuplesort.c), and what is sorted is about 2.5 times as large as the index.
_SORT_FACTOR, _LEAST_SORT = 2.5 * 272 * 1024, 8 * 1024**2
# A foreign key is proved by a hash join: batches that the cache holds, and not too many of them.
_LEAST_JOIN, _JOIN_BATCHES = 4 * 1024**2, 1024


@dataclass(frozen=True)
class Build:
    """A step after the rows of a source table, with statements for the target.

    rank: INDEX, SETTLE (what turns indexes into constraints and marks them), ANALYZE, LINK (what makes foreign keys without looking at rows) or
        PROVE (what looks at them); steps of one table go by rank, those of one rank together
    name: of the index, '' for other ranks; method: access method of an index; weight: cost in bytes of copied table
    size: bytes of the index, or of the table that foreign keys refer to; needs: ``schema.table`` of those that foreign keys refer to
    """

    schema: str
    table: str
    rank: int
    name: str
    method: str
    statement: str
    weight: int
    size: int = 0
    needs: tuple[str, ...] = ()

    @property
    def told(self) -> str:
        """For people: what is done."""
        return (f"index {self.name}", f"constraint or mark of {self.name}", "statistics", "foreign keys", "proof of foreign keys")[
            self.rank
        ]

    def memory(self, most: int) -> int:
        """maintenance_work_mem in bytes that suits it, of at most ``most``. Measured with shared and dedicated AMD cores of 32 MB cache."""
        if self.rank == PROVE:
            return min(most, max(_LEAST_JOIN, self.size // _JOIN_BATCHES))
        if self.method == "gin":
            return min(most, _GIN_MEMORY)
        if self.method == "btree":
            return min(most, max(_LEAST_SORT, 2 * int((_SORT_FACTOR * self.size) ** 0.5)))
        return most


@dataclass(frozen=True)
class IndexFact:
    """An index of an ordinary table or leaf partition, as the catalogue has it.

    definition: statement that makes it; constraint, constraint_type (p, u, x), constraint_definition: of the constraint on it, or ''
    exclusion: only its constraint's own statement can make it; statistics: ``column number target`` of its expressions
    bound: depends on an extension by ALTER INDEX
    """

    schema: str
    table: str
    name: str
    definition: str
    method: str
    valid: bool
    exclusion: bool
    constraint: str
    constraint_type: str
    constraint_definition: str
    deferrable: bool
    deferred: bool
    clustered: bool
    replica_identity: bool
    statistics: tuple[str, ...]
    size_bytes: int
    bound: bool

    @property
    def owner(self) -> Name:
        """(schema, table)."""
        return self.schema, self.table


_SIZE = re.compile(r"([1-9]\d{0,8})(kB|MB|GB)")

_FACTS = """
SELECT n.nspname, t.relname, c.relname, pg_get_indexdef(i.indexrelid), am.amname::text, i.indisvalid AND i.indisready, i.indisexclusion,
       coalesce(k.conname::text, ''), coalesce(k.contype::text, ''), coalesce(pg_get_constraintdef(k.oid), ''), coalesce(k.condeferrable, false),
       coalesce(k.condeferred, false), i.indisclustered, i.indisreplident,
       (SELECT coalesce(array_agg(a.attnum || ' ' || a.attstattarget ORDER BY a.attnum), '{}') FROM pg_attribute a
          WHERE a.attrelid = i.indexrelid AND a.attnum > 0 AND a.attstattarget >= 0),
       pg_relation_size(i.indexrelid),
       EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = i.indexrelid AND d.deptype = 'x')
FROM pg_index i
JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_am am ON am.oid = c.relam
JOIN pg_class t ON t.oid = i.indrelid JOIN pg_namespace n ON n.oid = t.relnamespace
LEFT JOIN pg_constraint k ON k.conindid = i.indexrelid AND k.conrelid = i.indrelid AND k.contype IN ('p', 'u', 'x')
WHERE i.indrelid = ANY(%s::oid[]) AND t.relkind = 'r' AND i.indislive
ORDER BY 1, 2, 3
"""


def memory_bytes(text: str) -> int:
    """Bytes of a size as the server writes it, such as ``512MB``. Raises TransferError for anything else."""
    found = _SIZE.fullmatch(text)
    if not found:
        raise TransferError(f"maintenance_work_mem is {text!r}, expected a size such as 512MB", "Correct it.")
    return int(found[1]) << 10 * (1 + ("kB", "MB", "GB").index(found[2]))


def read_indexes(conn: psycopg.Connection[Any], oids: Sequence[int]) -> tuple[IndexFact, ...]:
    """Indexes of these tables. Definitions name every schema, since the session's search_path holds only pg_catalog."""
    return tuple(IndexFact(*(*row[:14], tuple(row[14]), *row[15:])) for row in conn.execute(_FACTS, (list(oids),)).fetchall())


def missing(wanted: Iterable[IndexFact], there: Iterable[IndexFact], sizes: Mapping[Name, int]) -> tuple[Build, ...]:
    """What the target lacks of the source's indexes, constraints on them and marks. Pure. sizes: bytes of the source's tables.

    An index that the target has under the same name is taken as it is, an invalid one is nobody's business here.
    """
    have = {(*fact.owner, fact.name): fact for fact in there}
    found: list[Build] = []
    for fact in wanted:
        other = have.get((*fact.owner, fact.name))
        if not fact.valid or fact.bound or (other is not None and not other.valid):
            continue
        weight = _weight(fact, sizes.get(fact.owner, 0))
        if other is None and not fact.exclusion:
            found.append(Build(*fact.owner, INDEX, fact.name, fact.method, fact.definition, weight, fact.size_bytes))
        statements = _settling(fact, other)
        if statements:
            heavy = weight if other is None and fact.exclusion else 1
            found.append(Build(*fact.owner, SETTLE, fact.name, fact.method, "; ".join(statements), heavy, fact.size_bytes))
    return tuple(found)


def _settling(fact: IndexFact, other: IndexFact | None) -> list[str]:
    table, name = qualified(fact.schema, fact.table), quote_ident(fact.name)
    statements = []
    if fact.constraint and not (other is not None and other.constraint):
        add = f"ALTER TABLE ONLY {table} ADD CONSTRAINT {quote_ident(fact.constraint)} "
        if fact.exclusion:
            statements.append(add + fact.constraint_definition)
        else:
            kind = "PRIMARY KEY" if fact.constraint_type == "p" else "UNIQUE"
            when = " DEFERRABLE" if fact.deferrable else ""
            when += " INITIALLY DEFERRED" if fact.deferred else ""
            statements.append(f"{add}{kind} USING INDEX {name}{when}")
    if fact.clustered and not (other is not None and other.clustered):
        statements.append(f"ALTER TABLE {table} CLUSTER ON {name}")
    if fact.replica_identity and not (other is not None and other.replica_identity):
        statements.append(f"ALTER TABLE ONLY {table} REPLICA IDENTITY USING INDEX {name}")
    for entry in fact.statistics:
        if other is None or entry not in other.statistics:
            number, _unused, target = entry.partition(" ")
            statements.append(f"ALTER INDEX {qualified(fact.schema, fact.name)} ALTER COLUMN {number} SET STATISTICS {target}")
    return statements


def _weight(fact: IndexFact, table_bytes: int) -> int:
    return int(fact.size_bytes * _COST.get(fact.method, _OTHER_COST) + table_bytes * _READ_COST) + 1


def analyze_weight(size: int) -> int:
    """Cost of gathering the statistics of a table of this size: a sample of at most 30,000 blocks."""
    return int(min(size, 30_000 * 8192) * _READ_COST) + 1


def renames(table: Name, rename: Rename) -> bool:
    """Whether the rename map names a table or a column of it."""
    dotted = ".".join(table)
    return dotted in rename.tables or any(column.rpartition(".")[0] == dotted for column in rename.columns)


def renamed(fact: IndexFact, rename: Rename) -> bool:
    """Whether the rename map touches the table of an index or a schema that its definition names: such an index has another name's statement."""
    if renames(fact.owner, rename):
        return True
    text = fact.definition + fact.constraint_definition
    return any(f"{schema}." in text or f"{quote_ident(schema)}." in text for schema in rename.schemas)


def in_order(chunks: Iterable[Chunk], builds: Iterable[Build], workers: int) -> tuple[list[tuple[int, Chunk]], list[tuple[int, Build]]]:
    """Places of all work, smallest first: by the length of what depends on it, so that the longest way to the end is begun first. Pure."""
    pieces: dict[Name, list[Chunk]] = {}
    for chunk in sorted(chunks, key=lambda piece: (piece.schema, piece.table, piece.number)):
        pieces.setdefault((chunk.schema, chunk.table), []).append(chunk)
    steps: dict[Name, list[Build]] = {}
    for build in builds:
        steps.setdefault((build.schema, build.table), []).append(build)
    work: list[tuple[float, Name, int, Chunk | Build]] = []
    # A proof waits for the table that it refers to as well.
    referring: dict[str, float] = {}
    for proof in (build for mine in steps.values() for build in mine if build.rank == PROVE):
        for needed in proof.needs:
            referring[needed] = max(referring.get(needed, 0.0), proof.weight)
    for name in sorted(pieces.keys() | steps.keys()):
        mine = steps.get(name, [])
        own_proof = sum(build.weight for build in mine if build.rank == PROVE)
        after = max(0.0, referring.get(".".join(name), 0.0) - own_proof)
        for rank in (PROVE, LINK, ANALYZE, SETTLE, INDEX):
            these = [build for build in mine if build.rank == rank]
            work += [(after + build.weight, name, len(work), build) for build in these]
            after += max([sum(build.weight for build in these) / workers, *(build.weight for build in these)], default=0)
        own = pieces.get(name, [])
        # One level for all pieces of a table: what is begun is finished, so its indexes can begin, and a lost snapshot costs few tables.
        level = after + sum(max(chunk.bytes, 1) for chunk in own) / max(min(workers, len(own)), 1)
        work += [(level, name, len(work) + number, chunk) for number, chunk in enumerate(own)]
    work.sort(key=lambda item: (-item[0], item[1], item[2]))
    placed_chunks = [(place, item) for place, (_level, _name, _number, item) in enumerate(work) if isinstance(item, Chunk)]
    placed_builds = [(place, item) for place, (_level, _name, _number, item) in enumerate(work) if isinstance(item, Build)]
    return placed_chunks, placed_builds
