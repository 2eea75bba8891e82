# Copyright: cutover.hetzner contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What follows the rows and is quicker by hand than by pg_restore: keys over finished indexes, foreign keys in parallel, statistics."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

from . import session
from .catalog import qualified
from .endpoint import Endpoint
from .errors import TransferError
from .foreign_keys import ForeignKey
from .selection import Name
from .session import connect

if TYPE_CHECKING:
    import psycopg

_ADOPTABLE = """
SELECT k.oid::bigint, format('%%I.%%I', n.nspname, c.relname), quote_ident(k.conname), quote_ident(i.relname),
       CASE k.contype WHEN 'p' THEN 'PRIMARY KEY' ELSE 'UNIQUE' END, k.condeferrable, k.condeferred, pg_get_indexdef(k.conindid)
FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_class i ON i.oid = k.conindid
WHERE k.contype IN ('p', 'u') AND c.relkind = 'r' AND k.oid = ANY(%s::oid[])
"""
_FREE_INDEXES = """
SELECT quote_ident(i.relname), pg_get_indexdef(x.indexrelid) FROM pg_index x JOIN pg_class i ON i.oid = x.indexrelid
WHERE x.indisunique AND x.indisvalid AND x.indpred IS NULL AND x.indexprs IS NULL
  AND NOT EXISTS (SELECT FROM pg_constraint k WHERE k.conindid = x.indexrelid AND k.contype IN ('p', 'u', 'x'))
"""
_UNMEASURED = """
SELECT n.nspname::text, c.relname::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p', 'm') AND c.relpersistence <> 't' AND n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', 'cutover')
  AND (c.relkind = 'p' OR pg_relation_size(c.oid) > 0)
  AND EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped)
  AND (NOT EXISTS (SELECT FROM pg_stats s WHERE s.schemaname = n.nspname AND s.tablename = c.relname AND s.inherited = (c.relkind = 'p'))
       OR EXISTS (SELECT FROM pg_statistic_ext x WHERE x.stxrelid = c.oid AND NOT EXISTS (SELECT FROM pg_statistic_ext_data d WHERE d.stxoid = x.oid))
       OR EXISTS (SELECT FROM pg_index i JOIN pg_class e ON e.oid = i.indexrelid WHERE i.indrelid = c.oid AND i.indexprs IS NOT NULL AND e.relkind = 'i'
                  AND NOT EXISTS (SELECT FROM pg_stats s WHERE s.schemaname = n.nspname AND s.tablename = e.relname)))
ORDER BY pg_relation_size(c.oid) DESC
"""


def adopt_keys(src: psycopg.Connection[Any], dst: psycopg.Connection[Any], constraints: Collection[int]) -> None:
    """Turn finished unique indexes into the keys among these constraints of the source: the copy may have ended between the two."""
    free = dict(dst.execute(_FREE_INDEXES).fetchall()) if constraints else {}
    if not free:
        return
    for _oid, table, name, index, kind, deferrable, deferred, definition in src.execute(_ADOPTABLE, (list(constraints),)).fetchall():
        if free.get(index) == definition:
            when = (" DEFERRABLE" if deferrable else "") + (" INITIALLY DEFERRED" if deferred else "")
            dst.execute(f"ALTER TABLE ONLY {table} ADD CONSTRAINT {name} {kind} USING INDEX {index}{when}")


def add_foreign_keys(dst: psycopg.Connection[Any], keys: Sequence[ForeignKey]) -> None:
    """Make foreign keys without looking at rows, so that no key waits for the scan of another."""
    dst.execute("SET lock_timeout = '30s'")
    try:
        for key in keys:
            dst.execute(key.add)
    finally:
        dst.execute("SET lock_timeout = 0")


def validate(target: Endpoint, statements: Mapping[str, Sequence[str]], jobs: int) -> None:
    """Prove constraints, by table: those of one table exclude each other. Raises TransferError naming every one that its rows break."""
    failed = in_parallel(target, list(statements.values()), jobs)
    if failed:
        broken = [f"{_first_line(error)} ({statement})" for statement, error in failed]
        raise TransferError(
            f"{len(broken)} constraints do not hold for the rows: {broken[0]}",
            "The source says that it proved them, so its rows were written past the check. Correct the rows there, or make the constraint"
            " NOT VALID on the source as well (ALTER TABLE … DROP CONSTRAINT, ADD CONSTRAINT … NOT VALID), then run again.",
            kind="constraint_violated",
            broken=broken,
        )


def analyze(target: Endpoint, dst: psycopg.Connection[Any], jobs: int) -> None:
    """ANALYZE what has rows and no statistics, or none yet for an expression index or a statistics object."""
    statements = [[f"ANALYZE {qualified(schema, name)}"] for schema, name in dst.execute(_UNMEASURED).fetchall()]
    failed = in_parallel(target, statements, jobs)
    if failed:
        statement, error = failed[0]
        raise TransferError(f"{statement} failed: {_first_line(error)}", "Correct what the message names and run again.")


def refresh(src: psycopg.Connection[Any], dst: psycopg.Connection[Any], target_name: Callable[[str, str], Name]) -> None:
    """Fill materialized views that the source has filled. target_name: name of one on the target."""
    views = (
        "SELECT n.nspname::text, c.relname::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
        " WHERE c.relkind = 'm' AND c.relispopulated = %s ORDER BY c.oid"
    )
    filled = {target_name(*name) for name in src.execute(views, (True,)).fetchall()}
    for schema, name in dst.execute(views, (False,)).fetchall():
        if (schema, name) in filled:
            dst.execute(f"REFRESH MATERIALIZED VIEW {qualified(schema, name)}")


def in_parallel(target: Endpoint, groups: Sequence[Sequence[str]], jobs: int) -> list[tuple[str, Exception]]:
    """Run groups of statements over so many sessions, each group in order. Returns (statement, error) of those that failed."""
    waiting: SimpleQueue[Sequence[str]] = SimpleQueue()
    for group in groups:
        waiting.put(group)
    failed: list[tuple[str, Exception]] = []

    def work(_number: int) -> None:
        with connect(target, application_name="cutover schema") as conn:
            while True:
                try:
                    group = waiting.get_nowait()
                except Empty:
                    return
                for statement in group:
                    try:
                        conn.execute(statement)
                    except session.psycopg.Error as error:
                        failed.append((statement, error))

    sessions = min(max(1, jobs), len(groups))
    if sessions:
        with ThreadPoolExecutor(max_workers=sessions) as pool:
            list(pool.map(work, range(sessions)))
    return sorted(failed, key=lambda one: one[0])


def _first_line(error: Exception) -> str:
    detail = getattr(getattr(error, "diag", None), "message_detail", None)
    first = str(error).splitlines()[0] if str(error) else type(error).__name__
    return f"{first}: {detail}" if detail else first
