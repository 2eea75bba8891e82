# Copyright: cutover.hetzner contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Which partitions a table consists of that is published through the table on top, and which files they have.

Through the top PostgreSQL sends rows, and a TRUNCATE of the whole; that one partition was truncated, attached or detached it does not tell (seen on
14, 16 and 18). Each of these gives a partition another file, or another row in pg_inherits. So do VACUUM FULL and the like, which change no row.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..selection import Name

if TYPE_CHECKING:
    import psycopg

Leaves = Mapping[Name, str]
"""{(schema, table) on top: what its partitions were, as a digest}"""

# From the catalogues alone: pg_partition_tree() would wait for whoever is truncating.
_READ = """
WITH RECURSIVE tree AS (
    SELECT c.oid AS top, i.inhrelid AS leaf, i.xmin::text AS added FROM pg_publication_tables t
    JOIN pg_namespace n ON n.nspname = t.schemaname JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = t.tablename AND c.relkind = 'p'
    LEFT JOIN pg_inherits i ON i.inhparent = c.oid WHERE t.pubname = %s
    UNION ALL
    SELECT tree.top, i.inhrelid, i.xmin::text FROM tree JOIN pg_inherits i ON i.inhparent = tree.leaf)
SELECT n.nspname::text, c.relname::text,
       coalesce(md5(string_agg(concat_ws(' ', l.oid::text, l.relfilenode::text, l.reltablespace::text, tree.added), ',' ORDER BY l.oid)), '')
FROM tree JOIN pg_class c ON c.oid = tree.top JOIN pg_namespace n ON n.oid = c.relnamespace LEFT JOIN pg_class l ON l.oid = tree.leaf
GROUP BY 1, 2
"""


def read(conn: psycopg.Connection[Any], publication: str) -> Leaves:
    """As of now, of what a publication sends through a table on top. conn: to the sender. Waits for nobody."""
    return {(row[0], row[1]): row[2] for row in conn.execute(_READ, (publication,)).fetchall()}


def changed(before: Leaves, now: Leaves) -> tuple[Name, ...]:
    """Tables on top whose partitions are others than they were, or that were not looked at before. Pure."""
    return tuple(sorted(name for name, digest in now.items() if before.get(name) != digest))


def plain(leaves: Leaves) -> list[list[str]]:
    """To be kept as JSON. Pure."""
    return [[*name, digest] for name, digest in sorted(leaves.items())]


def from_plain(kept: object) -> Leaves:
    """The inverse of :func:`plain`. Pure."""
    return {(schema, table): digest for schema, table, digest in kept} if isinstance(kept, list) else {}
