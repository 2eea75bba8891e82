# Copyright: cutover.hetzner contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""B-tree indexes of the target checked against their tables with the extension amcheck: a broken one answers wrongly while every row is there."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from . import session
from .catalog import Table, quote_ident
from .endpoint import Endpoint
from .errors import TransferError

if TYPE_CHECKING:
    import psycopg

_INDEXES = """
SELECT i.indexrelid::bigint, n.nspname || '.' || c.relname, tn.nspname || '.' || t.relname
FROM pg_index i
JOIN pg_class c ON c.oid = i.indexrelid AND c.relkind = 'i' JOIN pg_namespace n ON n.oid = c.relnamespace
JOIN pg_am m ON m.oid = c.relam AND m.amname = 'btree'
JOIN pg_class t ON t.oid = i.indrelid JOIN pg_namespace tn ON tn.oid = t.relnamespace
WHERE i.indisvalid AND i.indrelid IN (SELECT unnest(%s::oid[]) UNION SELECT p.relid FROM unnest(%s::oid[]) o, pg_partition_tree(o) p)
ORDER BY pg_relation_size(c.oid) DESC, 2
"""


@dataclass(frozen=True)
class BrokenIndex:
    """An index that contradicts its table. index, table: ``schema.name`` on the target; problem: amcheck's sentence."""

    index: str
    table: str
    problem: str


@dataclass(frozen=True)
class CheckedIndexes:
    """checked: number of indexes looked at; broken: those that are damaged, by name."""

    checked: int
    broken: tuple[BrokenIndex, ...]


def check(target: Endpoint, conn: psycopg.Connection[Any], tables: Iterable[Table], pool: Executor) -> CheckedIndexes:
    """Check all b-tree indexes of these tables and their partitions, the largest first.

    conn: a session with the target, for the catalogue. Raises TransferError of kind amcheck where the extension is missing or our role may not use it.
    """
    found = conn.execute(
        """SELECT n.nspname, has_function_privilege(p.oid, 'EXECUTE'), p.pronargs FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace
           JOIN pg_proc p ON p.pronamespace = n.oid AND p.proname = 'bt_index_check' WHERE e.extname = 'amcheck' ORDER BY p.pronargs DESC LIMIT 1"""
    ).fetchone()
    if found is None:
        raise TransferError(
            "extension amcheck is not installed in the target database, so indexes cannot be checked",
            "Run CREATE EXTENSION amcheck; there as a superuser, or leave check_indexes off.",
            kind="amcheck",
        )
    schema, allowed, arguments = found
    if not allowed:
        raise TransferError(
            f"role {conn.info.user} may not call bt_index_check on the target",
            f"Run GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA {quote_ident(schema)} TO {quote_ident(str(conn.info.user))}; or leave check_indexes off.",
            kind="amcheck",
        )
    oids = [table.oid for table in tables]
    indexes = conn.execute(_INDEXES, (oids, oids)).fetchall()
    # Every row must have its entry; from PostgreSQL 18's amcheck on, no unique value two visible ones.
    call = f"SELECT {quote_ident(schema)}.bt_index_check(%s::oid::regclass, true{', true' if arguments > 2 else ''})"
    problems = pool.map(partial(_problem, target, call), [row[0] for row in indexes])
    broken = tuple(BrokenIndex(row[1], row[2], problem) for row, problem in zip(indexes, problems, strict=True) if problem)
    return CheckedIndexes(len(indexes), broken)


def _problem(target: Endpoint, call: str, oid: int) -> str:
    """What is wrong with an index, '' when nothing is. A session of its own: an old snapshot would see less than the index has."""
    with session.connect(target, application_name="cutover index check", read_only=True) as conn:
        try:
            conn.execute(call, (oid,))
        except (session.psycopg.errors.IndexCorrupted, session.psycopg.errors.DataCorrupted) as error:
            return str(error).strip().splitlines()[0]
    return ""
